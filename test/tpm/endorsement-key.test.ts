import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  EK_PUBLIC_PREFIX,
  endorsementKeyProblem,
  parseEndorsementKey,
  registrationIdOf,
} from '../../src/tpm/endorsement-key.ts';

/** A published endorsement key and the registration id that Azure's documentation gives for it. */
export const PUBLIC_EK =
  'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAtKEADl/sNRgmYAjP6gXmbccRaJoTnVixisUaek0OwAzFGN70xt9ZOYp6fhIwfcft3fdVKOrKpXYcTe72CGNkGJGlQz5ti9n2pQ0uJhcX8aefh4Onm7lVlUCQAVp1K0r6zI8vkEXWsBIvwvxk0eMJbFaq146kbTkJHIGczb89RkFH2TX+CgXeZOG9oXQzUNwktmTUacspamune5Wywc/ce8HsDFYchyUHogFhrZ/LPnzyTDXO8sSC5z5dvsUBtUME3iRYDyKgZOfBtmRMqQewD+4iH+ZEJjtsyJiWR8hFhyKROnOuqXfNFwjd5IcNU4wtlKO0cLyXmTOfQK6Da1pr5Q==';

describe('the endorsement key', () => {
  it('gives the registration id of the public vector', () => {
    const key = parseEndorsementKey(PUBLIC_EK);
    assert.equal(registrationIdOf(key), 'y5wivfciikcievvnsbpkhzcahwm4chuzx6v4hnqnlqfs3fjf6rxa');
  });

  it('begins with the 60 bytes of template L-1', () => {
    assert.equal(
      EK_PUBLIC_PREFIX.toString('hex'),
      '013a0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100800000000000100',
    );
  });

  it('is refused with one bit of the template changed', () => {
    const key = parseEndorsementKey(PUBLIC_EK);
    for (let bit = 0; bit < EK_PUBLIC_PREFIX.length * 8; bit += 1) {
      const damaged = Buffer.from(key);
      damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      assert.notEqual(endorsementKeyProblem(damaged), undefined, `bit ${bit}`);
    }
  });

  it('is refused in base64 that is not canonical', () => {
    for (const text of [
      '',
      ` ${PUBLIC_EK}`,
      `${PUBLIC_EK}\n`,
      PUBLIC_EK.slice(0, -2),
      PUBLIC_EK.replaceAll('+', '-'),
    ]) {
      assert.throws(() => parseEndorsementKey(text), { code: 'input.invalid' });
    }
  });

  it('is never found in random bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        assert.notEqual(endorsementKeyProblem(Buffer.from(bytes)), undefined);
      }),
    );
  });
});
