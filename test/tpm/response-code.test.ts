import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { IotdmError } from '../../src/errors.ts';
import {
  decodeResponseCode,
  describeResponseCode,
  isRetryable,
  responseError,
  saysAbsent,
} from '../../src/tpm/response-code.ts';

describe('decodeResponseCode', () => {
  // As tpm2_rc_decode names them.
  const known: [number, string][] = [
    [0x100, 'TPM_RC_INITIALIZE'],
    [0x101, 'TPM_RC_FAILURE'],
    [0x14b, 'TPM_RC_NV_SPACE'],
    [0x14c, 'TPM_RC_NV_DEFINED'],
    [0x18b, 'TPM_RC_HANDLE (handle 1)'],
    [0x28b, 'TPM_RC_HANDLE (handle 2)'],
    [0x1c4, 'TPM_RC_VALUE (parameter 1)'],
    [0x2d5, 'TPM_RC_SIZE (parameter 2)'],
    [0x98e, 'TPM_RC_AUTH_FAIL (session 1)'],
    [0x9a2, 'TPM_RC_BAD_AUTH (session 1)'],
    [0x902, 'TPM_RC_OBJECT_MEMORY'],
    [0x921, 'TPM_RC_LOCKOUT'],
    [0x922, 'TPM_RC_RETRY'],
    [0x01e, 'TPM_RC_BAD_TAG'],
    [0x000, 'TPM_RC_SUCCESS'],
    [0x081, 'TPM_RC_ASYMMETRIC'],
    // The kernel's resource manager, and an HRESULT of Windows.
    [0xb0143, 'TPM_RC_COMMAND_CODE'],
    [0x80280922, 'TPM_RC_RETRY'],
    [0x80280400, 'TPM_E_COMMAND_BLOCKED'],
    // Vendor-specific, reserved, of TPM 1.2, of tpm2-tss itself, and what the specification left out.
    [0x500, 'response code 0x500'],
    [0x300, 'response code 0x300'],
    [0x003, 'response code 0x3'],
    [0xa000a, 'response code 0xa000a'],
    [0x5ff, 'response code 0x5ff'],
    [0x80284fff, 'response code 0x80284fff'],
    [-1, 'response code 0xffffffff'],
  ];
  for (const [code, expected] of known) {
    it(`names 0x${code.toString(16)} ${expected}`, () => {
      assert.equal(describeResponseCode(decodeResponseCode(code)), expected);
    });
  }

  it('has a name or the number for every 12-bit code, and an error for each', () => {
    for (let code = 1; code < 0x1000; code += 1) {
      assert.match(decodeResponseCode(code).name, /^(TPM_RC_[A-Z0-9_]+|response code 0x[0-9a-f]+)$/);
      assert.ok(responseError('ReadPublic', code) instanceof IotdmError);
    }
  });

  it('retries just what the specification says may be sent again', () => {
    const retryable = Array.from({ length: 0x1000 }, (_, code) => code).filter(isRetryable);
    assert.deepEqual(retryable, [0x908, 0x90a, 0x922]);
  });

  it('takes only a complaint about the first handle for an empty handle', () => {
    assert.ok(saysAbsent(0x18b));
    assert.ok(!saysAbsent(0x28b));
    assert.ok(!saysAbsent(0x184));
  });
});
