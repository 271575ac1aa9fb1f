/** An emulator in a process of its own, for tests that kill it: says where it is on stdout once it answers. */

import { startEmulator } from '../../src/emulator/emulator.ts';

const { info } = await startEmulator({ dir: process.argv[2] ?? '' });
process.stdout.write(`${JSON.stringify(info)}\n`);
