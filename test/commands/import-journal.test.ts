/** What the built iotdm does with journal, report and plan, and what it says when it cannot. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, beforeEach, describe, it } from 'node:test';
import { syntheticEndorsementKey } from '../fakes/endorsement-keys.ts';
import {
  emulator,
  executable,
  iotdm,
  lifetimeOfFile,
  scratchDirectory,
  startIotdm,
  type EmulatedService,
  type Outcome,
} from '../lab/lab.ts';
import { errorLines, shownFailure } from './failing.ts';

const lifetime = lifetimeOfFile();
const answers = new EventEmitter();
let service: EmulatedService;
let dir: string;
/** Each test has devices of its own. */
let series = 0;

before(async () => {
  service = await emulator(lifetime, { onRequest: () => answers.emit('answer') });
});
beforeEach(async () => {
  dir = await scratchDirectory(lifetime);
  series += 1;
});

function rows(count: number, more = ''): string {
  const lines = Array.from({ length: count }, (_, number) => {
    const key = syntheticEndorsementKey(series * 10_000 + number);
    return `t${series}-${String(number).padStart(4, '0')},${key},d-${series}-${number}${more}\n`;
  });
  return `registrationId,endorsementKey,deviceId\n${lines.join('')}`;
}

const importing = (args: readonly string[], stdin = ''): Promise<Outcome> =>
  iotdm(
    [
      'enrollment',
      'import',
      ...(args.includes('--rate') ? [] : ['--rate', '0']),
      ...args,
      ...service.options,
    ],
    { cwd: dir, stdin },
  );

interface Summary {
  readonly created: number;
  readonly skipped: number;
  readonly unchanged: number;
  readonly requests: number;
  readonly journal: string | null;
}

const summaryOf = ({ code, stdout, stderr }: Outcome): Summary => {
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as Summary;
};

describe('the journal of an import', () => {
  it('stands beside the input, elsewhere, or nowhere', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(3));
    assert.equal(summaryOf(await importing(['a.csv', '--json'])).journal, 'a.csv.journal');
    assert.equal(summaryOf(await importing(['a.csv', '--json', '--journal', 'other'])).journal, 'other');
    assert.equal(summaryOf(await importing(['a.csv', '--json', '--no-journal'])).journal, null);
    assert.equal(summaryOf(await importing(['-', '--json'], rows(3))).journal, null);
    assert.equal(summaryOf(await importing(['-', '--json', '--journal', 'in'], rows(3))).journal, 'in');
    assert.deepEqual(readdirSync(dir).sort(), ['a.csv', 'a.csv.journal', 'in', 'other']);
    for (const name of ['a.csv.journal', 'in', 'other']) {
      assert.equal(statSync(join(dir, name)).mode & 0o777, 0o600);
    }
    assert.deepEqual(summaryOf(await importing(['-', '--json', '--journal', 'in'], rows(3))).skipped, 3);
  });

  it('is refused for another input, with the way out', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(3));
    summaryOf(await importing(['a.csv', '--json']));
    writeFileSync(join(dir, 'a.csv'), rows(4));
    const before = service.requests.length;
    const refused = await importing(['a.csv']);
    assert.equal(refused.code, 2);
    assert.deepEqual(errorLines(refused.stderr), [
      'a.csv.journal is the journal of another input: its content is not what it was',
      'finish that import first, or begin this one with --restart, or keep its journal elsewhere with --journal FILE',
    ]);
    const precious = shownFailure(await importing(['a.csv', '--restart', '--journal', 'a.csv', '--json']));
    assert.equal(precious.code, 'input.journal');
    assert.equal(precious.hint, 'give another file with --journal FILE');
    assert.equal(readFileSync(join(dir, 'a.csv'), 'utf8'), rows(4));
    assert.equal(service.requests.length, before, 'nothing was sent');
    const restarted = summaryOf(await importing(['a.csv', '--json', '--restart']));
    assert.deepEqual([restarted.created, restarted.unchanged], [1, 3]);
  });

  it('is used by one import at a time', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(100));
    const args = ['enrollment', 'import', 'a.csv', '--rate', '60', ...service.options];
    const first = startIotdm(args, { cwd: dir });
    await once(answers, 'answer');
    const second = await iotdm(args, { cwd: dir });
    assert.equal(second.code, 2);
    const [message, hint] = errorLines(second.stderr);
    assert.match(
      message,
      new RegExp(`^another import uses the journal a\\.csv\\.journal \\(process ${first.pid} on `),
    );
    assert.match(hint, /^wait for it to end and run the command again; .* delete a\.csv\.journal\.lock$/);
    first.kill('SIGKILL');
    await first.outcome;
    assert.equal((await importing(['a.csv'])).code, 0, 'a killed one holds nothing');
  });

  it('that cannot be written is said before anything is sent', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(3));
    const before = service.requests.length;
    mkdirSync(join(dir, 'folder'));
    for (const journal of ['no/such/folder', 'folder', '/dev/full']) {
      const { code, stderr } = await importing(['a.csv', '--journal', journal]);
      assert.equal(code, 2, stderr);
      const [message, hint] = errorLines(stderr);
      assert.ok(message.startsWith(`the journal ${journal} `), message);
      assert.match(hint, /elsewhere with --journal FILE, or keep none with --no-journal$/);
    }
    assert.equal(service.requests.length, before);
  });

  /** A file system of 8 KiB, in a name space of its own. */
  const smallDisk = ['-rm', 'sh', '-c', 'mount -t tmpfs -o size=8k tmpfs disk && exec "$0" "$@"'];
  const noNameSpaces =
    spawnSync('unshare', [...smallDisk.slice(0, 1), 'mount', '-t', 'tmpfs', 'x', '/mnt']).status !== 0;

  it('that fills the disk stops the import, which then says so', { skip: noNameSpaces }, async () => {
    writeFileSync(join(dir, 'a.csv'), rows(4000));
    mkdirSync(join(dir, 'disk'));
    const few = ['--rate', '0', '--concurrency', '4'];
    const import_ = ['enrollment', 'import', 'a.csv', ...few, '--journal', 'disk/j', '--json'];
    const child = spawn(
      'unshare',
      [...smallDisk, process.execPath, executable, ...import_, ...service.options],
      {
        cwd: dir,
      },
    );
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [code] = (await once(child, 'close')) as [number];
    assert.equal(code, 2, stderr);
    const { error } = JSON.parse(stderr) as {
      error: { message: string; hint: string; details: { created: number; requests: number } };
    };
    assert.equal(error.message, 'the journal disk/j cannot be written (ENOSPC)');
    assert.match(error.hint, /free space/);
    const { created, requests } = error.details;
    assert.ok(created > 0 && created < 4000, `${created} rows`);
    assert.ok(requests * 10 <= created + 100, 'nothing more was sent');
  });

  it('that there is no room for at all is what the error names', { skip: noNameSpaces }, async () => {
    writeFileSync(join(dir, 'a.csv'), rows(3));
    mkdirSync(join(dir, 'disk'));
    const full =
      'mount -t tmpfs -o size=8k tmpfs disk && head -c 100k /dev/zero >disk/fill 2>/dev/null; exec "$0" "$@"';
    const child = spawn(
      'unshare',
      [
        '-rm',
        'sh',
        '-c',
        full,
        process.execPath,
        executable,
        'enrollment',
        'import',
        'a.csv',
        '--journal',
        'disk/j',
        ...service.options,
      ],
      { cwd: dir },
    );
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [code] = (await once(child, 'close')) as [number];
    assert.equal(code, 2, stderr);
    assert.match(errorLines(stderr)[0], /^the journal disk\/j cannot be written \(ENOSPC\)$/);
  });

  it('survives Ctrl-C, and says how to go on', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(60));
    const args = ['enrollment', 'import', 'a.csv', '--rate', '600', ...service.options];
    const running = startIotdm(args, { cwd: dir });
    await once(answers, 'answer');
    running.kill('SIGINT');
    const { code, stdout, stderr } = await running.outcome;
    assert.equal(code, 130, stderr);
    assert.equal(stdout, '');
    const [message, hint] = errorLines(stderr);
    assert.match(message, /^interrupted: [1-5]0 of 60 rows are done$/);
    assert.equal(hint, 'run the same command again: it goes on where it stopped, by a.csv.journal');
    const journal = readFileSync(join(dir, 'a.csv.journal'), 'utf8');
    assert.ok(journal.endsWith('\n'));
    assert.equal(existsSync(join(dir, 'a.csv.journal.lock')), false);
    const { created, skipped } = summaryOf(await importing(['a.csv', '--json']));
    assert.equal(created + skipped, 60);
    assert.ok(skipped >= 10);
  });

  it('outlasts a file that is edited meanwhile and put back: nothing of the other one was sent', async () => {
    const all = rows(1500);
    const path = join(dir, 'a.csv');
    writeFileSync(path, all);
    const running = startIotdm(['enrollment', 'import', 'a.csv', '--rate', '1000/s', ...service.options], {
      cwd: dir,
    });
    await once(answers, 'answer');
    writeFileSync(path, all.replace(`,d-${series}-1499\n`, `,X-${series}-1499\n`));
    const { code, stderr } = await running.outcome;
    assert.equal(code, 2, stderr);
    const [message, hint] = errorLines(stderr);
    assert.match(message, /^a\.csv has changed since it was checked: \d+ of 1500 rows are done$/);
    assert.match(hint, /^put the file back as it was and run the same command again, or .* --restart/);

    writeFileSync(path, all);
    const { created, skipped } = summaryOf(await importing(['a.csv', '--json']));
    assert.ok(skipped > 0, `${skipped} rows`);
    assert.equal(created + skipped, 1500);
    const shown = await iotdm(['enrollment', 'show', `t${series}-1499`, '--json', ...service.options]);
    assert.equal((JSON.parse(shown.stdout) as { deviceId: string }).deviceId, `d-${series}-1499`);
  });

  it('is told of although its report cannot be made any more', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(40));
    const args = ['enrollment', 'import', 'a.csv', '--rate', '1200', '--report', 'r.csv', ...service.options];
    const running = startIotdm(args, { cwd: dir });
    await once(answers, 'answer');
    rmSync(join(dir, 'a.csv'));
    const { code, stderr } = await running.outcome;
    assert.equal(code, 2, stderr);
    assert.match(
      errorLines(stderr)[0],
      /^the import is done \(40 of 40 rows\), its report is not: a\.csv cannot be read: there is no such file$/,
    );
  });

  it('holds nothing secret', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(30));
    summaryOf(await importing(['a.csv', '--json', '--report', 'r.csv', '-vv']));
    const secret = /SharedAccessKey=(.*)/.exec(readFileSync(service.connectionStringFile, 'utf8'))?.[1] ?? '';
    for (const name of ['a.csv.journal', 'r.csv']) {
      const content = readFileSync(join(dir, name), 'utf8');
      for (const part of [
        secret,
        secret.slice(0, 12),
        'SharedAccess',
        'sig=',
        syntheticEndorsementKey(series * 10_000).slice(60, 90),
      ]) {
        assert.equal(content.includes(part), false, `${name}: ${part}`);
      }
    }
  });
});

describe('the report of an import', () => {
  it('has every row once, with what the service said and the way out, and is replaced by the next', async () => {
    writeFileSync(
      join(dir, 'other.csv'),
      rows(1).replaceAll(/,AToA[^,]*/g, `,${syntheticEndorsementKey(999_999)}`),
    );
    summaryOf(await importing(['other.csv', '--json', '--no-journal']));
    writeFileSync(join(dir, 'a.csv'), rows(3));
    for (const more of [[], ['--no-journal'], ['--restart']]) {
      const { code, stderr } = await importing(['a.csv', '--report', 'r.csv', ...more]);
      assert.equal(code, 8, stderr);
      assert.match(
        stderr,
        /^line 2: t\d+-0000: holds another endorsement key\n {2}→ look at it with: iotdm enrollment show t\d+-0000$/m,
      );
      const outcome = more.length === 0 ? 'created' : 'unchanged';
      assert.equal(
        readFileSync(join(dir, 'r.csv'), 'utf8').replaceAll('\r\n', '\n'),
        'file,line,registrationId,outcome,code,message,wayOut\n' +
          `a.csv,2,t${series}-0000,failed,service.conflict,"holds another endorsement key","look at it with: iotdm enrollment show t${series}-0000"\n` +
          `a.csv,3,t${series}-0001,${outcome},,,\na.csv,4,t${series}-0002,${outcome},,,\n`,
      );
      assert.equal(statSync(join(dir, 'r.csv')).mode & 0o777, 0o600);
    }
    assert.deepEqual(readdirSync(dir).sort(), ['a.csv', 'a.csv.journal', 'other.csv', 'r.csv']);
  });

  it('tells the file of a row where there are several', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(1));
    series += 1;
    writeFileSync(join(dir, 'b.csv'), rows(1));
    writeFileSync(
      join(dir, 'b2.csv'),
      rows(1).replaceAll(/,AToA[^,]*/g, `,${syntheticEndorsementKey(999_998)}`),
    );
    summaryOf(await importing(['b2.csv', '--json']));
    const { code, stderr } = await importing(['a.csv', 'b.csv', '--report', 'r.csv']);
    assert.equal(code, 8, stderr);
    assert.match(stderr, /^b\.csv:2: /m);
    assert.match(
      readFileSync(join(dir, 'r.csv'), 'utf8'),
      /^a\.csv,2,[^,]+,created.*\r?\nb\.csv,2,[^,]+,failed/m,
    );
  });

  it('is never written over anything else, nor where it cannot be, and this is said before anything is sent', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(1));
    writeFileSync(join(dir, 'precious.csv'), 'a,b\n');
    mkdirSync(join(dir, 'folder'));
    symlinkSync('a.csv', join(dir, 'link.csv'));
    const before = service.requests.length;
    for (const [report, code] of [
      ['precious.csv', 'usage.output-exists'],
      ['a.csv', 'usage.output-exists'],
      ['link.csv', 'usage.output-exists'],
      ['folder', 'usage.output-exists'],
      ['no/folder/r.csv', 'usage.output-unwritable'],
    ] as const) {
      const shown = shownFailure(await importing(['a.csv', '--report', report, '--json']));
      assert.equal(shown.code, code, report);
      assert.equal(shown.exitCode, 2);
    }
    assert.equal(readFileSync(join(dir, 'precious.csv'), 'utf8'), 'a,b\n');
    assert.equal(service.requests.length, before);
    assert.equal(existsSync(join(dir, 'a.csv.journal')), false);
  });
});

describe('a dry run with credentials', () => {
  interface Plan {
    readonly dryRun: boolean;
    readonly rows: readonly { readonly line: number; readonly action: string; readonly code?: string }[];
    readonly total: number;
    readonly create: number;
    readonly update: number;
    readonly unchanged: number;
    readonly conflict: number;
    readonly requests: number;
    readonly minutes: number | null;
  }
  const plan = async (...args: string[]): Promise<Plan> => {
    const { code, stdout, stderr } = await iotdm(
      ['enrollment', 'import', 'a.csv', '--dry-run', '--json', ...service.options, ...args],
      { cwd: dir },
    );
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as Plan;
  };

  it('says of every row what would be done, and what it costs, and does nothing', async () => {
    const all = rows(40);
    const [header = '', ...lines] = all.trimEnd().split('\n');
    const thief = lines[3]?.replace(/,AToA[^,]*/, `,${syntheticEndorsementKey(999_997)}`) ?? '';
    writeFileSync(
      join(dir, 'a.csv'),
      [header, ...lines.slice(0, 3), thief, ...lines.slice(4, 20), ''].join('\n'),
    );
    summaryOf(await importing(['a.csv', '--json', '--no-journal']));
    const changed = lines.map((line, index) => (index < 3 ? `${line}-new` : line));
    writeFileSync(join(dir, 'a.csv'), [header, ...changed, ''].join('\n'));
    const listing = ['enrollment', 'list', '--json', ...service.options];
    const before = (await iotdm(listing)).stdout;

    const { rows: planned, ...totals } = await plan('--rate', '100');
    assert.deepEqual(
      planned.map(({ action }) => action),
      [
        ...Array.from({ length: 3 }, () => 'update'),
        'conflict',
        ...Array.from({ length: 16 }, () => 'unchanged'),
        ...Array.from({ length: 20 }, () => 'create'),
      ],
    );
    assert.deepEqual(planned[3], {
      line: 5,
      registrationId: `t${series}-0003`,
      action: 'conflict',
      code: 'service.conflict',
      message: 'holds another endorsement key',
    });
    const { requests, minutes, ...counts } = totals;
    assert.deepEqual(counts, {
      dryRun: true,
      mode: 'upsert',
      total: 40,
      create: 20,
      update: 3,
      unchanged: 16,
      conflict: 1,
      delete: 0,
      skip: 0,
      identityCompared: true,
    });
    // Two requests create, one updates, and the pages of the service's enrollments are read.
    const pages = Math.ceil((JSON.parse(before) as readonly unknown[]).length / 1000);
    assert.equal(requests, 3 + pages);
    assert.ok(minutes !== null && minutes >= 0.2 && minutes <= 0.4, String(minutes));
    assert.equal((await iotdm(listing)).stdout, before);
    assert.equal(existsSync(join(dir, 'a.csv.journal')), false);
    assert.equal((await plan('--rate', 'unlimited')).minutes, null);

    const text = await iotdm(
      ['enrollment', 'import', 'a.csv', '--dry-run', '--rate', '60', ...service.options],
      {
        cwd: dir,
      },
    );
    assert.match(text.stdout, /^update {5}line 2: t\d+-0000$/m);
    assert.match(text.stdout, /^conflict {3}line 5: t\d+-0003: holds another endorsement key$/m);
    assert.match(
      text.stdout,
      /^40 rows compared; nothing was written\.\nCreate +20\nUpdate +3\nUnchanged +16\nConflict +1\nRequests +\d, in about 2\d s\n/m,
    );
  });

  it('keeps to the mode', async () => {
    const [header = '', ...lines] = rows(4).trimEnd().split('\n');
    writeFileSync(join(dir, 'a.csv'), [header, ...lines.slice(0, 2), ''].join('\n'));
    summaryOf(await importing(['a.csv', '--json', '--no-journal']));
    writeFileSync(join(dir, 'a.csv'), [header, ...lines, ''].join('\n'));
    const actions = async (mode: string): Promise<string> =>
      (await plan('--mode', mode)).rows.map(({ action }) => action).join(' ');
    assert.equal(await actions('create'), 'conflict conflict create create');
    assert.equal(await actions('update'), 'unchanged unchanged conflict conflict');
    assert.equal(await actions('delete'), 'delete delete skip skip');
  });

  it('spares what was changed since it was listed', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(3));
    summaryOf(await importing(['a.csv', '--json', '--no-journal']));
    const ids = [`t${series}-0000`, `t${series}-0001`, `t${series}-0002`];
    const listing = ['enrollment', 'list', '--ndjson', '--id-prefix', `t${series}-`, ...service.options];
    writeFileSync(join(dir, 'listed.ndjson'), (await iotdm(listing)).stdout);
    const changing = ['enrollment', 'update', ids[1] ?? '', '--device-id', 'theirs', ...service.options];
    assert.equal((await iotdm(changing)).code, 0);

    const deleting = ['enrollment', 'import', 'listed.ndjson', '--mode', 'delete', '--yes', '--json'];
    const dry = await iotdm([...deleting, '--dry-run', '--rate', '60', ...service.options], { cwd: dir });
    const planned = JSON.parse(dry.stdout) as Plan;
    assert.deepEqual(
      planned.rows.map(({ action, code }) => [action, code]),
      [
        ['delete', undefined],
        ['conflict', 'service.changed-meanwhile'],
        ['delete', undefined],
      ],
    );
    assert.equal(planned.requests, 3 + 2, 'a look-up of each row, and a request for each deletion');

    const outcome = await iotdm([...deleting, ...service.options], { cwd: dir });
    assert.equal(outcome.code, 8, outcome.stderr);
    const left = JSON.parse((await iotdm(listing)).stdout) as { readonly registrationId: string };
    assert.equal(left.registrationId, ids[1]);
    assert.equal((await iotdm([...deleting, '--force', ...service.options], { cwd: dir })).code, 0);
    assert.equal((await iotdm(listing)).stdout, '');
  });

  it('of an empty service or a long file is one document', async () => {
    writeFileSync(join(dir, 'a.csv'), rows(2500));
    const { rows: planned, create, total } = await plan();
    assert.deepEqual([planned.length, create, total], [2500, 2500, 2500]);
  });
});

describe('the options of an import', () => {
  it('are checked before anything is read', async () => {
    for (const [option, value] of [
      ['--rate', 'fast'],
      ['--rate', '-5'],
      ['--rate', '1/h'],
      ['--give-up-after', 'soon'],
      ['--give-up-after', '30d'],
      ['--concurrency', '0'],
    ] as const) {
      const shown = shownFailure(await importing(['absent.csv', option, value, '--json']));
      assert.equal(shown.code, 'usage.invalid', option);
      assert.ok(shown.message.startsWith(`${option} takes `) || value === '-5', shown.message);
    }
  });

  it('leave an unwritable directory to --no-journal', { skip: process.getuid?.() === 0 }, async () => {
    writeFileSync(join(dir, 'a.csv'), rows(1));
    chmodSync(dir, 0o500);
    const refused = await importing(['a.csv']);
    const allowed = await importing(['a.csv', '--no-journal']);
    chmodSync(dir, 0o700);
    assert.equal(refused.code, 2);
    assert.equal(allowed.code, 0, allowed.stderr);
  });
});
