import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { openTransport } from '../../src/tpm/open.ts';
import { parseTcti } from '../../src/tpm/tcti.ts';

const command = Buffer.from('80010000000c0000017b0004', 'hex');

describe('a command that never answers and has children of its own', () => {
  // The shell can be ended, what it waits for cannot: it keeps the pipes open for as long as it lives.
  for (const program of ['sleep 30; true', 'trap "" TERM; sleep 30; true']) {
    it(`is let go of after the time limit: ${program}`, { timeout: 20_000 }, async () => {
      const transport = await openTransport(parseTcti(`cmd:${program}`), 100);
      await assert.rejects(transport.send(command), { code: 'tpm-unavailable.timeout' });
      await transport.close();
    });
  }

  it('is let go of when nobody waits for an answer', { timeout: 20_000 }, async () => {
    const transport = await openTransport(parseTcti('cmd:sleep 30; true'), 100);
    await transport.close();
  });
});
