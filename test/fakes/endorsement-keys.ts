/** Endorsement keys for tests: the public vector, and synthetic ones that no TPM has. */
import { createHash } from 'node:crypto';
import { EK_PUBLIC_PREFIX } from '../../src/tpm/endorsement-key.ts';

/** Public test vector of Microsoft's DPS documentation, and its registration id. */
export const vectorEndorsementKey =
  'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAtKEADl/sNRgmYAjP6gXmbccRaJoTnVixisUaek0OwAzFGN70xt9ZOYp6fhIwfcft3fdVKOrKpXYcTe72CGNkGJGlQz5ti9n2pQ0uJhcX8aefh4Onm7lVlUCQAVp1K0r6zI8vkEXWsBIvwvxk0eMJbFaq146kbTkJHIGczb89RkFH2TX+CgXeZOG9oXQzUNwktmTUacspamune5Wywc/ce8HsDFYchyUHogFhrZ/LPnzyTDXO8sSC5z5dvsUBtUME3iRYDyKgZOfBtmRMqQewD+4iH+ZEJjtsyJiWR8hFhyKROnOuqXfNFwjd5IcNU4wtlKO0cLyXmTOfQK6Da1pr5Q==';
export const vectorRegistrationId = 'y5wivfciikcievvnsbpkhzcahwm4chuzx6v4hnqnlqfs3fjf6rxa';

/** The EK of a device that does not exist, in base64: the modulus is SHA-256 of `iotdm N I`, made odd and 2048 bits long. */
export function syntheticEndorsementKey(number: number): string {
  const blocks = Array.from({ length: 8 }, (_, index) =>
    createHash('sha256').update(`iotdm ${number} ${index}`).digest(),
  );
  const modulus = Buffer.concat(blocks);
  modulus.writeUInt8(modulus.readUInt8(0) | 0x80, 0);
  modulus.writeUInt8(modulus.readUInt8(255) | 1, 255);
  return Buffer.concat([EK_PUBLIC_PREFIX, modulus]).toString('base64');
}
