/* Loaded into a measured Node.js process with --import: tells its peak memory, in KiB, on file descriptor 3. */
import { writeSync } from 'node:fs';

process.on('exit', () => {
  writeSync(3, String(process.resourceUsage().maxRSS));
});
