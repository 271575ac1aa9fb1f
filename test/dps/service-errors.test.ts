import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  AnswerShapeError,
  bulkResult,
  enrollmentPage,
  storedEnrollment,
} from '../../src/dps/service-answers.ts';
import { bulkErrorCode, connectionError, refusalError, shownText } from '../../src/dps/service-errors.ts';
import { parseServiceHost } from '../../src/dps/service-host.ts';
import { backoffMs, retryAfterMs } from '../../src/dps/service-retry.ts';
import { IotdmError } from '../../src/errors.ts';

describe('errors of a connection', () => {
  it('are told apart', () => {
    const cases: readonly [string, string][] = [
      ['ENOTFOUND', 'network.unreachable'],
      ['EAI_AGAIN', 'network.unreachable'],
      ['ECONNREFUSED', 'network.unreachable'],
      ['EHOSTUNREACH', 'network.unreachable'],
      ['ENETUNREACH', 'network.unreachable'],
      ['ETIMEDOUT', 'network.timeout'],
      ['ECONNRESET', 'network.unavailable'],
      ['EPIPE', 'network.unavailable'],
      ['DEPTH_ZERO_SELF_SIGNED_CERT', 'network.tls'],
      ['CERT_CHAIN_TOO_LONG', 'network.tls'],
      ['EPROTO', 'network.tls'],
      ['HPE_INVALID_CONSTANT', 'service.unexpected-answer'],
      ['EWHATEVER', 'internal.unexpected'],
    ];
    for (const [code, expected] of cases) {
      const cause = Object.assign(new Error('x'), { code });
      const error = connectionError('dps.example', cause);
      assert.equal(error.code, expected, code);
      assert.equal(error.cause, cause);
      assert.match(error.message, /dps\.example/);
    }
    const own = new IotdmError('network.timeout', 'late');
    assert.equal(connectionError('dps.example', own), own);
  });
});

describe('error codes of bulk results', () => {
  it('are those of their first three digits', () => {
    const cases: readonly [number, string][] = [
      [400004, 'service.invalid'],
      [401002, 'auth.refused'],
      [404201, 'service.not-found'],
      [409, 'service.conflict'],
      [412001, 'service.changed-meanwhile'],
      [415000, 'service.invalid'],
      [429001, 'network.throttled'],
      [500007, 'network.unavailable'],
      [0, 'service.unexpected-answer'],
      [-1, 'service.unexpected-answer'],
    ];
    for (const [errorCode, expected] of cases) assert.equal(bulkErrorCode(errorCode), expected);
  });
});

describe('whatever a peer sends', () => {
  it('becomes a message of one bounded line', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 300, max: 999 }),
        fc.json(),
        fc.string({ unit: 'binary' }),
        (status, json, type) => {
          for (const body of [json, JSON.stringify({ message: type, errorCode: json, trackingId: json })]) {
            const error = refusalError('h', {
              status,
              contentType: type,
              errorCodeHeader: undefined,
              retryAfterMs: undefined,
              body,
            });
            assert.ok(error.message.length < 500);
            assert.doesNotMatch(error.message, /[\p{Cc}\p{Cf}\u2028\u2029]/u);
          }
        },
      ),
    );
    assert.equal(shownText('x'.repeat(400), 300).length, 300);
  });

  it('is read or refused, never anything else', () => {
    const enrollmentLike = fc.record(
      {
        registrationId: fc.oneof(fc.constant('a'), fc.jsonValue()),
        etag: fc.oneof(fc.constant('"1"'), fc.jsonValue()),
        attestation: fc.oneof(fc.constant({ type: 'tpm', tpm: { endorsementKey: 'AA==' } }), fc.jsonValue()),
        initialTwin: fc.oneof(
          fc.record({ tags: fc.jsonValue(), properties: fc.jsonValue() }),
          fc.jsonValue(),
        ),
        iotHubs: fc.jsonValue(),
        registrationState: fc.jsonValue(),
      },
      { requiredKeys: ['registrationId', 'etag', 'attestation'] },
    );
    const resultLike = fc.record({
      isSuccessful: fc.oneof(fc.boolean(), fc.jsonValue()),
      errors: fc.oneof(
        fc.array(
          fc.record({ registrationId: fc.jsonValue(), errorCode: fc.jsonValue(), errorStatus: fc.string() }),
        ),
        fc.jsonValue(),
      ),
    });
    fc.assert(
      fc.property(fc.oneof(enrollmentLike, resultLike, fc.jsonValue()), (value) => {
        for (const read of [
          storedEnrollment,
          enrollmentPage,
          (answer: unknown) => bulkResult(answer, ['a']),
        ]) {
          try {
            read(JSON.parse(JSON.stringify(value)));
          } catch (error) {
            assert.ok(error instanceof AnswerShapeError);
          }
        }
        assert.deepEqual(Object.keys(Object.prototype), []);
      }),
    );
  });
});

describe('the host of a service', () => {
  it('is split into name and port', () => {
    const name = 'line4.azure-devices-provisioning.net';
    assert.deepEqual(parseServiceHost(name), { hostname: name, port: 443 });
    assert.deepEqual(parseServiceHost('127.0.0.1:8443'), { hostname: '127.0.0.1', port: 8443 });
    assert.deepEqual(parseServiceHost('[::1]:8443'), { hostname: '::1', port: 8443 });
    assert.deepEqual(parseServiceHost('[::1]'), { hostname: '::1', port: 443 });
    for (const text of [
      '',
      ':',
      'a:',
      'a:0',
      'a:65536',
      'a:1:2',
      '::1',
      '[a]',
      'a/b',
      'https://a',
      'u@a',
      'a b',
      '[::1',
    ]) {
      assert.throws(() => parseServiceHost(text), { code: 'usage.invalid' }, text);
    }
  });
});

describe('waiting', () => {
  it('reads retry-after in both of its forms', () => {
    const now = Date.UTC(2026, 0, 1);
    assert.equal(retryAfterMs('5', now), 5000);
    assert.equal(retryAfterMs(' 0 ', now), 0);
    assert.equal(retryAfterMs('61', now), 60_000);
    assert.equal(retryAfterMs(new Date(now + 9000).toUTCString(), now), 9000);
    assert.equal(retryAfterMs(new Date(now - 9000).toUTCString(), now), 0);
    for (const text of [undefined, '', '-5', 'soon', 'Monday', '1e3', '0x10']) {
      assert.equal(retryAfterMs(text, now), undefined, text);
    }
    fc.assert(
      fc.property(fc.string(), (text) => {
        const ms = retryAfterMs(text, now) ?? 0;
        assert.ok(ms >= 0 && ms <= 60_000);
      }),
    );
  });

  it('grows, up to a minute, and is spread out', () => {
    assert.deepEqual(
      [1, 2, 3, 9].map((attempt) => backoffMs(attempt, () => 1)),
      [500, 1000, 2000, 60_000],
    );
    assert.equal(
      backoffMs(5, () => 0),
      0,
    );
  });
});
