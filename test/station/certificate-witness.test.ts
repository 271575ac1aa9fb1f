import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CertificateWitness, type RowVerification } from '../../src/station/certificate-witness.ts';
import {
  checkEnrollmentInput,
  describeFault,
  type InputCheck,
  type InputSource,
} from '../../src/station/enrollment-input.ts';
import { EK_PUBLIC_PREFIX, registrationIdOf } from '../../src/tpm/endorsement-key.ts';
import { trustedCertificates } from '../../src/trust/roots.ts';
import { EK_USAGE, ekExtensions, makeVendor, NOW, pem, rsaKey, tpmName } from '../fakes/tpm-vendor.ts';

const root = await makeVendor('Root');
const middle = await root.issueVendor('Middle');
const trusted = trustedCertificates([root.der, middle.der]);
const good = await middle.issueEk(rsaKey());

function check(
  text: string,
  policy: RowVerification['policy'] = 'require',
  name = 'delivery.csv',
): Promise<InputCheck & { verification?: RowVerification }> {
  const source: InputSource = {
    name,
    async *open() {
      yield await Promise.resolve(Buffer.from(text));
    },
  };
  return checkEnrollmentInput([source], { certificates: new CertificateWitness(trusted, NOW, policy) });
}

const base64 = (der: Buffer): string => der.toString('base64');

async function keyAndCertificate(): Promise<{ key: string; certificate: Buffer }> {
  const key = rsaKey();
  const modulus = Buffer.from(key.export({ format: 'jwk' }).n ?? '', 'base64url');
  return { key: base64(Buffer.concat([EK_PUBLIC_PREFIX, modulus])), certificate: await middle.issueEk(key) };
}

describe('the EK certificates of a delivery list', () => {
  it('are verified in every form that a cell can have', async () => {
    const [padded, inPem, inHex] = [
      await middle.issueEk(rsaKey()),
      await middle.issueEk(rsaKey()),
      await middle.issueEk(rsaKey()),
    ];
    const rows = [
      `SN-1,${base64(good)}`,
      `SN-2,${base64(Buffer.concat([padded, Buffer.from('\n')]))}`,
      `SN-3,"${pem(inPem)}"`,
      `SN-4,${inHex.toString('hex')}`,
    ];
    const { faults, verification } = await check(`serialNumber,ekCertificate\n${rows.join('\n')}\n`);
    assert.deepEqual(faults.map(describeFault), []);
    assert.deepEqual(verification, {
      policy: 'require',
      verified: 4,
      notVerified: 0,
      reasons: [],
      first: [],
    });
  });

  it('that are not in order are faults of their rows, each with its place and its reason', async () => {
    const forged = Buffer.from(await middle.issueEk(rsaKey()));
    forged[forged.length - 3] = (forged[forged.length - 3] ?? 0) ^ 1;
    const stranger = await makeVendor('Stranger');
    const { key } = await keyAndCertificate();
    const own = await keyAndCertificate();
    const certificates: readonly [Buffer | string, RegExp][] = [
      [
        await middle.issueEk(rsaKey(), { notAfter: new Date('2026-05-31T00:00:00Z') }),
        /expired on 2026-05-31/,
      ],
      [
        await middle.issueEk(rsaKey(), { notBefore: new Date('2026-06-02T00:00:00Z') }),
        /not valid before 2026-06-02/,
      ],
      [forged, /signature on the certificate .* is not that of its issuer/],
      [await stranger.issueEk(rsaKey()), /its issuer "CN=Stranger" is not among/],
      [
        await middle.issueEk(rsaKey(), { extensions: (x509) => [tpmName(x509)] }),
        /does not allow its key to encipher/,
      ],
      [
        await middle.issueEk(rsaKey(), {
          extensions: (x509) =>
            ekExtensions(x509).filter((one) => !(one instanceof x509.ExtendedKeyUsageExtension)),
        }),
        new RegExp(`lacks the extended key usage ${EK_USAGE}`),
      ],
      [
        await middle.issueEk(rsaKey(), { extensions: (x509) => ekExtensions(x509).slice(1) }),
        /lacks manufacturer, model, version/,
      ],
    ];
    const rows = certificates.map(
      ([der], index) => `SN-${index},,${typeof der === 'string' ? der : base64(der)}`,
    );
    const more = [
      `SN-a,${key},`,
      `SN-b,${own.key},${base64(own.certificate)}`,
      `SN-c,${key},${base64(good)}`,
    ];
    const text = `serialNumber,endorsementKey,ekCertificate\n${[...rows, ...more.slice(0, 2)].join('\n')}\n`;
    const { faults, faultCount, verification } = await check(text);
    assert.equal(faultCount, certificates.length + 1);
    for (const [index, [, reason]] of certificates.entries()) {
      const fault = faults[index];
      assert.ok(fault);
      assert.equal(fault.code, 'verify.ek');
      assert.match(
        describeFault(fault),
        new RegExp(
          `^delivery\\.csv:${index + 2}:${`SN-${index},,`.length + 1}: ekCertificate: the EK certificate is not verified: `,
        ),
      );
      assert.match(fault.message, reason);
    }
    assert.equal(faults.at(-1)?.message, 'the EK certificate is not verified: the row has no EK certificate');
    assert.deepEqual([verification?.verified, verification?.notVerified], [1, certificates.length + 1]);
    assert.deepEqual(
      Object.fromEntries(
        (verification?.reasons ?? []).map(({ for: reason, rows: count }) => [reason, count]),
      ),
      { dates: 2, chain: 2, usage: 2, names: 1, missing: 1 },
    );
    const mixed = await check(`serialNumber,endorsementKey,ekCertificate\n${more[2] ?? ''}\n`);
    assert.match(mixed.faults[0]?.message ?? '', /hold different keys/);
  });

  it('are counted, and no fault, where a policy only warns', async () => {
    const rows = Array.from(
      { length: 25 },
      (_, index) => `SN-${index},${base64(Buffer.concat([EK_PUBLIC_PREFIX, modulusOf(index)]))}`,
    );
    const { faultCount, verification } = await check(
      `serialNumber,endorsementKey\n${rows.join('\n')}\n`,
      'warn',
    );
    assert.equal(faultCount, 0);
    assert.deepEqual(
      [verification?.verified, verification?.notVerified, verification?.first.length],
      [0, 25, 10],
    );
    assert.deepEqual(verification?.reasons, [{ for: 'missing', rows: 25 }]);
    assert.deepEqual([verification.first[3]?.file, verification.first[3]?.line], ['delivery.csv', 5]);
  });

  it('are looked at in manifests and in JSON, where they stand beside the key', async () => {
    const { key, certificate } = await keyAndCertificate();
    const bare = await keyAndCertificate();
    const record = (endorsementKey: string, ekCertificate: string | null) => ({
      schema: 1,
      registrationId: registrationIdOf(Buffer.from(endorsementKey, 'base64')),
      endorsementKey,
      ekCertificate,
    });
    const lines = [
      record(key, base64(certificate)),
      record(bare.key, null),
      record((await keyAndCertificate()).key, 'AAAA'),
      { serialNumber: 'SN-1', ekCertificate: base64(await middle.issueEk(rsaKey())) },
    ].map((line) => `${JSON.stringify(line)}\n`);
    const { faults, verification } = await check(lines.join(''), 'require', 'shift.ndjson');
    assert.deepEqual([verification?.verified, verification?.notVerified], [2, 2]);
    assert.match(
      describeFault(faults[0] ?? assert.fail()),
      /^shift\.ndjson:2: ekCertificate: .*the row has no EK certificate$/,
    );
    assert.match(
      describeFault(faults[1] ?? assert.fail()),
      /^shift\.ndjson:3:\d+: ekCertificate: the EK certificate is not verified: /,
    );
  });

  it('cost no more than their issuers are worth: a list of many issuers is read to its end', async () => {
    const others = await Promise.all(Array.from({ length: 20 }, (_, index) => makeVendor(`Vendor ${index}`)));
    const rows = await Promise.all(
      others.map(async (vendor, index) => `SN-${index},${base64(await vendor.issueEk(rsaKey()))}`),
    );
    const { verification } = await check(`serialNumber,ekCertificate\n${rows.join('\n')}\n`, 'warn');
    assert.deepEqual(verification?.reasons, [{ for: 'chain', rows: 20 }]);
  });
});

/** No key's, and one of its own for each number. */
function modulusOf(number: number): Buffer {
  const modulus = Buffer.alloc(256, 0xc1);
  modulus.writeUInt32BE(number, 100);
  return modulus;
}
