import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { IotdmError, mayHaveTakenEffect, withEffect } from '../src/errors.ts';

describe('the effect of a failure', () => {
  it('is that of its cause, unless it says another one', () => {
    const cause = new IotdmError('tpm.refused', 'refused', { effect: 'refused' });
    assert.equal(new IotdmError('verify.slot', 'wrong', { cause }).effect, 'refused');
    assert.equal(
      new IotdmError('tpm.slot-incomplete', 'half', { cause, effect: 'unknown' }).effect,
      'unknown',
    );
    assert.equal(new IotdmError('verify.slot', 'wrong', { cause: new Error('x') }).effect, undefined);
  });

  it('can be another one for another request, and nothing else changes with it', () => {
    const cause = new Error('ECONNRESET');
    const one = new IotdmError('network.unavailable', 'cut', {
      cause,
      details: { status: 1 },
      effect: 'unknown',
    });
    const other = withEffect(one, 'none');
    assert.deepEqual([one.effect, other.effect], ['unknown', 'none']);
    assert.deepEqual(
      [other.code, other.message, other.cause, other.details],
      [one.code, one.message, cause, one.details],
    );
    assert.equal(withEffect(one, 'unknown'), one);
  });

  it('that nobody has told is not taken for none', () => {
    assert.deepEqual(
      [
        new IotdmError('tpm.refused', 'x'),
        new TypeError('x'),
        new IotdmError('tpm.refused', 'x', { effect: 'unknown' }),
        new IotdmError('tpm.refused', 'x', { effect: 'refused' }),
        new IotdmError('tpm.refused', 'x', { effect: 'none' }),
      ].map(mayHaveTakenEffect),
      [true, true, true, false, false],
    );
  });
});
