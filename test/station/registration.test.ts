import assert from 'node:assert/strict';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { IotdmError } from '../../src/errors.ts';
import { parseConnectionString } from '../../src/slot/device-identity.ts';
import { checkRepair, showSlot, writeSlot } from '../../src/slot/slots.ts';
import type { RegistrationOutcome } from '../../src/station/registration.ts';
import { Tpm } from '../../src/tpm/tpm.ts';
import type { TpmTransport } from '../../src/tpm/transport.ts';
import type { TpmOptions } from '../../src/tpm/tss.ts';
import {
  assertAccepted,
  checkAtHub,
  enroll,
  registerChip,
  recordsOf,
  type RegisterOptions,
} from '../fakes/enrolled-chip.ts';
import { manInTheMiddle, type ManInTheMiddle, type PassingAnswer } from '../fakes/man-in-the-middle.ts';
import { CommandCode, DyingTransport, dyingAt, refusingAt } from '../fakes/transports.ts';
import {
  emulator,
  lifetimeOfFile,
  scratchDirectory,
  softwareTpm,
  type EmulatedService,
  type SoftwareTpm,
} from '../lab/lab.ts';

const KEY = 'bZD+qa+2VxMAX7yi6Ar2ldJ90tEkBjlgVsN74Ptz9ac=';

const lifetime = lifetimeOfFile();
let service: EmulatedService;

before(async () => {
  service = await emulator(lifetime);
});

/** First handles of what a TPM may hold: persistent, transient, NV indexes, sessions of either kind. */
const kinds = [0x81000000, 0x80000000, 0x01000000, 0x02000000, 0x03000000] as const;

function contents(chip: SoftwareTpm): Promise<number[][]> {
  return chip.use(async (tpm) => {
    const found: number[][] = [];
    for (const first of kinds) found.push(await tpm.handles(first, 64));
    return found;
  });
}

/** What a loss of power takes with it. */
async function loseVolatile(chip: SoftwareTpm): Promise<void> {
  await chip.use(async (tpm) => {
    for (const first of [0x80000000, 0x02000000, 0x03000000]) {
      for (const handle of await tpm.handles(first, 64)) await tpm.flushTransient(handle);
    }
  });
}

function register(
  chip: SoftwareTpm,
  options: RegisterOptions = {},
  tpmOptions?: TpmOptions,
): Promise<RegistrationOutcome> {
  return chip.use((tpm) => registerChip(chip, service, tpm, options), tpmOptions);
}

async function refused(work: Promise<unknown>, code: string | RegExp, why = ''): Promise<IotdmError> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof IotdmError, String(error));
    assert.match(
      error.code,
      typeof code === 'string' ? new RegExp(`^${code}$`) : code,
      `${why} ${error.message}`,
    );
    return error;
  }
  return assert.fail(`was not refused ${why}`);
}

describe('registering a device', () => {
  let chip: SoftwareTpm;
  before(async () => {
    chip = await softwareTpm(lifetime);
    await enroll(chip, service);
    await chip.use((tpm) => tpm.ensureStorageRootKey());
  });

  it('puts the identity that DPS gave into the slot, and the hub takes what the TPM signs with it', async () => {
    const registrationId = await enroll(chip, service, { registrationId: 'press-17', deviceId: 'Press-17' });
    const outcome = await register(chip, { dps: { registrationId } });
    assert.deepEqual(
      { ...outcome, keyName: '' },
      {
        registrationId,
        deviceId: 'Press-17',
        assignedHub: service.hub,
        status: 'assigned',
        substatus: 'initialAssignment',
        payload: null,
        slot: 0,
        keyName: '',
        replaced: false,
        alreadyRegistered: false,
        hubVerified: true,
      },
    );
    assert.equal(chip.tool('tpm2_nvread', '0x1400100'), `${service.hub}/Press-17`);
    const key = chip.tool('tpm2_readpublic', '-c', '0x81000100');
    assert.match(key, /value: userwithauth\|noda\|sign\n/);
    assert.ok(key.includes(outcome.keyName));
    assert.equal(chip.handles('transient') + chip.handles('loaded-session'), '');
    await chip.use((tpm) => assertAccepted(service, tpm, 0));
  });

  it('is not repeated unless it is asked for, and then gives another key', async () => {
    const first = await register(chip, { slot: 4 });
    const asked = service.requests.length;
    const again = await register(chip, { slot: 4 });
    assert.deepEqual(again, { ...first, alreadyRegistered: true, hubVerified: null });
    assert.equal(service.requests.length, asked, 'nobody was asked');
    for (const options of [{ anew: true }, { overwrite: true }]) {
      const anew = await register(chip, { slot: 4, ...options });
      assert.equal(anew.alreadyRegistered, false);
      assert.equal(anew.substatus, 'reprovisionedToInitialAssignment');
      assert.notEqual(anew.keyName, first.keyName);
      assert.deepEqual(
        recordsOf(chip)
          .all(4)
          .map(({ keyName }) => keyName),
        [anew.keyName],
      );
    }
    assert.equal((await register(chip, { slot: 4 })).alreadyRegistered, true);
    await refused(register(chip, { slot: 4, dps: { idScope: '0neOTHER' } }), 'tpm.slot-not-empty');
    await refused(
      register(chip, { slot: 4, dps: { registrationId: 'other' }, anew: true }),
      'tpm.slot-not-empty',
    );
  });

  it('whose slot cannot be written leaves no record of a key that is nowhere', async (t) => {
    const chip = await softwareTpm(t);
    await enroll(chip, service);
    const keyNames = (): string[] =>
      recordsOf(chip)
        .all(0)
        .map(({ keyName }) => keyName);
    const attempt = async (transport: TpmTransport, anew = false): Promise<unknown> => {
      const tpm = new Tpm(transport);
      return registerChip(chip, service, tpm, { anew }).finally(() => tpm.close());
    };
    const NV_SPACE = 0x14b;
    const refusing = async (): Promise<TpmTransport> =>
      refusingAt(await chip.transport(), CommandCode.NV_DefineSpace, NV_SPACE);
    await refused(attempt(await refusing()), 'tpm.no-room');
    assert.deepEqual(keyNames(), []);
    // What can still be finished is still known.
    const cut = dyingAt(await chip.transport(), CommandCode.NV_Write);
    await refused(attempt(cut), 'tpm.slot-incomplete');
    assert.equal(keyNames().length, 1);
    const { keyName, alreadyRegistered } = await register(chip);
    assert.deepEqual([alreadyRegistered, keyNames()], [true, [keyName]]);
    // And what is in the slot stays known where another key was refused.
    await refused(attempt(await refusing(), true), 'tpm.no-room');
    assert.deepEqual(keyNames(), [keyName]);
  });

  it('goes by an enrollment with an id of its own, and carries a payload', async () => {
    await enroll(chip, service, { registrationId: 'line-3.press', allocationPolicy: 'custom' });
    const outcome = await register(chip, {
      slot: 5,
      dps: { registrationId: 'line-3.press', payload: { site: 'Ulm', lines: [3] } },
    });
    assert.equal(outcome.deviceId, 'line-3.press');
    assert.deepEqual(outcome.payload, { site: 'Ulm', lines: [3] });
    assert.equal(
      (await register(chip, { slot: 5, dps: { registrationId: 'line-3.press' } })).alreadyRegistered,
      true,
    );
    await refused(register(chip, { slot: 5 }), 'tpm.slot-not-empty');
  });

  it('derives the EK where none stands, without keeping it, and makes the SRK where none stands', async (t) => {
    const blank = await softwareTpm(t, { blank: true });
    await enroll(blank, service);
    await blank.use(async (tpm) => {
      await registerChip(blank, service, tpm);
      assert.equal(
        tpm.commandsSent.filter((command) => command === 'CreatePrimary').length,
        2,
        'one for each key',
      );
    });
    assert.doesNotMatch(blank.handles('persistent'), /0x81010001/);
    assert.match(blank.handles('persistent'), /0x81000001/);
    assert.equal(blank.handles('transient') + blank.handles('loaded-session'), '');
    await blank.use((tpm) => assertAccepted(service, tpm, 0));
  });

  it('needs the authorization of owner and endorsement where they are set', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await enroll(chip, service);
    chip.tool('tpm2_changeauth', '-c', 'o', 'owned');
    chip.tool('tpm2_changeauth', '-c', 'e', 'endorsed');
    const auth = { owner: Buffer.from('owned'), endorsement: Buffer.from('endorsed') };
    const untouched = await contents(chip);
    await refused(register(chip), 'tpm.authorization', 'no owner');
    await refused(register(chip, {}, { auth: { endorsement: auth.endorsement } }), 'tpm.authorization');
    assert.deepEqual(await contents(chip), untouched);
    await chip.use((tpm) => tpm.ensureStorageRootKey(), { auth });
    const withParent = await contents(chip);
    await refused(register(chip, {}, { auth: { owner: auth.owner } }), 'tpm.authorization', 'no endorsement');
    assert.deepEqual(await contents(chip), withParent);
    await register(chip, {}, { auth });
    await chip.use((tpm) => assertAccepted(service, tpm, 0));
  });

  it('takes as many TPM commands as the documentation says', async () => {
    const activation = ['StartAuthSession', 'PolicySecret', 'ActivateCredential', 'Import'];
    const signature = ['Load', 'HMAC', 'FlushContext'];
    await chip.use(async (tpm) => {
      await registerChip(chip, service, tpm, { slot: 6 });
      const sent = tpm.commandsSent;
      assert.deepEqual(sent.slice(0, 4), ['ReadPublic', 'NV_ReadPublic', 'ReadPublic', 'ReadPublic']);
      assert.deepEqual(sent.slice(4, 18), [...activation, ...signature, ...activation, ...signature]);
      assert.equal(sent.length, 31, sent.join(' '));
    });
    await chip.use(async (tpm) => {
      await registerChip(chip, service, tpm, { slot: 6, anew: true });
      assert.equal(tpm.commandsSent.length, 35, tpm.commandsSent.join(' '));
    });
    await chip.use(async (tpm) => {
      await registerChip(chip, service, tpm, { slot: 6 });
      assert.equal(tpm.commandsSent.length, 3, tpm.commandsSent.join(' '));
    });
  });
});

describe('a slot or a key that is not what it should be', () => {
  it('keeps an identity that was not registered from here, unless it may be overwritten', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await enroll(chip, service);
    const credentials = parseConnectionString(
      `HostName=plant.azure-devices.net;DeviceId=d;SharedAccessKey=${KEY}`,
    );
    await chip.use((tpm) => writeSlot(chip.access(tpm), 0, credentials));
    const untouched = await contents(chip);
    for (const options of [{}, { anew: true }]) {
      const error = await refused(register(chip, options), 'tpm.slot-not-empty');
      assert.match(error.message, /it holds plant.azure-devices.net\/d$/);
    }
    assert.deepEqual(await contents(chip), untouched);
    assert.equal((await register(chip, { overwrite: true })).replaced, true);
  });

  it('is left alone: a foreign object in the slot, and a storage root key of another kind', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    await enroll(chip, service);
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'ecc', '-c', join(dir, 'ecc.ctx'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'ecc.ctx'), '0x81000100');
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'ecc.ctx'), '0x81000001');
    chip.tool('tpm2_flushcontext', '-t');
    const untouched = await contents(chip);
    await refused(register(chip, { overwrite: true }), 'tpm.slot-foreign');
    await refused(register(chip, { slot: 1 }), 'tpm.parent-unsuitable');
    assert.deepEqual(await contents(chip), untouched);
  });

  it('is used as it is: a storage root key of the template of the Azure SDKs', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    const dir = await scratchDirectory(t);
    await enroll(chip, service);
    // tpm2_createprimary leaves `unique` empty, as the SDKs do.
    chip.tool('tpm2_createprimary', '-C', 'o', '-G', 'rsa2048:aes128cfb', '-c', join(dir, 'srk.ctx'));
    chip.tool('tpm2_evictcontrol', '-C', 'o', '-c', join(dir, 'srk.ctx'), '0x81000001');
    chip.tool('tpm2_flushcontext', '-t');
    await register(chip);
    await chip.use((tpm) => assertAccepted(service, tpm, 0));
  });
});

describe('an answer that is not for this device', () => {
  let chip: SoftwareTpm;
  let other: SoftwareTpm;
  let registrationId: string;
  let middle: ManInTheMiddle;
  let old: RegistrationOutcome;
  let untouched: number[][];
  before(async () => {
    [chip, other] = await Promise.all([softwareTpm(lifetime), softwareTpm(lifetime)]);
    registrationId = await enroll(chip, service);
    await enroll(other, service);
    middle = await manInTheMiddle(lifetime, service);
    old = await register(chip);
    untouched = await contents(chip);
  });

  /** Registers anew through the middle, in vain: the slot stays as it was. */
  async function inVain(code: string | RegExp, options: RegisterOptions = {}, why = ''): Promise<void> {
    const dps = { host: middle.host, ca: middle.ca, ...options.dps };
    await refused(register(chip, { anew: true, ...options, dps }), code, why);
    assert.deepEqual(await contents(chip), untouched, why);
    const { keyName, uri } = await chip.use((tpm) => showSlot(tpm, 0));
    assert.deepEqual([keyName, uri], [old.keyName, `${old.assignedHub}/${old.deviceId}`], why);
    middle.change = (answer) => answer;
    middle.changeRequest = (request) => request;
  }

  it('is refused with any part of either key changed', async () => {
    const changed = (blob: unknown, at: number): string => {
      const bytes = Buffer.from(String(blob), 'base64');
      bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
      return bytes.toString('base64');
    };
    /** A byte in the contents of each part, but for the last: what it holds, an encrypted URI, nobody reads. */
    const places = (blob: unknown): number[] => {
      const bytes = Buffer.from(String(blob), 'base64');
      const found: number[] = [];
      for (let at = 0; at < bytes.length; at += 2 + bytes.readUInt16BE(at)) found.push(at + 7);
      return found.slice(0, -1);
    };
    const assignedKey = ({ json }: PassingAnswer): { authenticationKey?: unknown } | undefined =>
      (json['registrationState'] as { tpm?: { authenticationKey?: unknown } } | undefined)?.tpm;
    for (let place = 0; place < 5; place += 1) {
      middle.change = (answer) => {
        const blob = answer.json['authenticationKey'];
        if (blob === undefined) return answer;
        return {
          ...answer,
          json: { ...answer.json, authenticationKey: changed(blob, places(blob)[place] ?? 0) },
        };
      };
      await inVain('verify.identity-key', {}, `session key, place ${place}`);
      middle.change = (answer) => {
        const tpm = assignedKey(answer);
        if (tpm !== undefined)
          tpm.authenticationKey = changed(tpm.authenticationKey, places(tpm.authenticationKey)[place] ?? 0);
        return answer;
      };
      await inVain('verify.identity-key', {}, `device key, place ${place}`);
    }
  });

  it('is refused where it was for another TPM, or its storage root key', async () => {
    const { publicArea } = await other.use((tpm) => tpm.readStorageRootKey({ persist: true }));
    middle.changeRequest = (request) => {
      const body = JSON.parse(request.body || '{}') as { tpm?: { storageRootKey: string } };
      if (body.tpm !== undefined) body.tpm.storageRootKey = publicArea.toString('base64');
      return { ...request, body: JSON.stringify(body) };
    };
    await inVain('verify.identity-key', {}, "another chip's SRK");
    // The enrollment of the other chip, with this chip's EK.
    const theirs = await other.use(async (tpm) => (await tpm.readEndorsementKey()).publicArea);
    await enroll(other, service, { registrationId: 'other-press' });
    await inVain('tpm.slot-not-empty', { dps: { registrationId: 'other-press' } });
    const wrongKey = await refused(
      register(chip, { slot: 7, dps: { registrationId: 'other-press' } }),
      'service.invalid',
    );
    assert.equal(wrongKey.details?.['errorCode'], 400004);
    // A service that takes the EK it is told for granted: the key is for the other TPM.
    middle.changeRequest = (request) => {
      const body = JSON.parse(request.body || '{}') as {
        tpm?: { endorsementKey: string };
        registrationId: string;
      };
      if (body.tpm !== undefined) body.tpm.endorsementKey = theirs.toString('base64');
      const path = request.path.replace(registrationId, 'other-press');
      return { ...request, path, body: JSON.stringify({ ...body, registrationId: 'other-press' }) };
    };
    await inVain('verify.identity-key', {}, "another chip's EK");
  });

  it('is refused where it was recorded before', async () => {
    let recorded: Record<string, unknown> | undefined;
    let keys: unknown;
    middle.change = (answer) => {
      if (answer.status === 401) recorded ??= answer.json;
      keys ??= (answer.json['registrationState'] as { tpm?: unknown } | undefined)?.tpm;
      return answer;
    };
    await register(chip, { anew: true, dps: { host: middle.host, ca: middle.ca } });
    old = await register(chip, { anew: true });
    untouched = await contents(chip);
    // The challenge: its answer has been used.
    middle.change = (answer) =>
      answer.status === 401 && answer.request.headers['authorization'] === undefined
        ? { ...answer, json: recorded ?? {} }
        : answer;
    await inVain('auth.refused');
    // The device's key: the TPM takes it, and the hub knows that it is not the device's any more.
    middle.change = (answer) => {
      const state = answer.json['registrationState'] as { tpm?: unknown } | undefined;
      if (state !== undefined) state.tpm = keys;
      return answer;
    };
    await inVain('auth.refused', { hubCheck: checkAtHub(service) });
  });

  it('is refused where its token was made for another device', async () => {
    const token = Buffer.from('other-press');
    middle.changeRequest = (request) => ({
      ...request,
      headers: {
        ...request.headers,
        ...(request.headers['authorization'] === undefined
          ? {}
          : { authorization: request.headers['authorization'].replace(registrationId, token.toString()) }),
      },
    });
    await inVain('auth.refused');
  });

  it('leaves the old identity usable where DPS never answers the last request', async () => {
    middle.change = (answer) => (answer.request.method === 'GET' ? undefined : answer);
    await inVain('network.unavailable');
  });
});

describe('a connection that is lost', () => {
  it('to DPS at any request ends well, or leaves the slot as it was, and the next run completes', async (t) => {
    const chip = await softwareTpm(t);
    await enroll(chip, service);
    const middle = await manInTheMiddle(t, service);
    const dps = { host: middle.host, ca: middle.ca };
    let { keyName } = await register(chip);
    const untouched = await contents(chip);
    for (let lethal = 0; lethal < 3; lethal += 1) {
      for (const isForGood of [false, true]) {
        let count = -1;
        middle.change = (answer) => {
          count += 1;
          return count === lethal || (isForGood && count > lethal) ? undefined : answer;
        };
        const why = `request ${lethal}, ${isForGood ? 'for good' : 'once'}`;
        if (isForGood) {
          await refused(register(chip, { anew: true, dps }), 'network.unavailable', why);
          assert.deepEqual(await contents(chip), untouched, why);
          assert.equal((await chip.use((tpm) => showSlot(tpm, 0))).keyName, keyName, why);
        } else {
          await register(chip, { anew: true, dps });
        }
        ({ keyName } = await register(chip, { anew: true }));
        assert.deepEqual(await contents(chip), untouched, why);
      }
    }
  });

  it('to the TPM at any command leaves one identity or the other, or half of one that the next run completes', async (t) => {
    const chip = await softwareTpm(t);
    await enroll(chip, service);
    await register(chip);
    const whole = await contents(chip);
    let lethal = 0;
    let taken = 0;
    let finishable = 0;
    for (; ; lethal += 1) {
      const before = await chip.use((tpm) => showSlot(tpm, 0));
      const why = `command ${lethal}`;
      const tpm = new Tpm(new DyingTransport(await chip.transport(), lethal, 'after'));
      try {
        await registerChip(chip, service, tpm, { anew: true });
        break;
      } catch (error) {
        assert.ok(error instanceof IotdmError, String(error));
        assert.match(error.code, /^tpm-unavailable\.connection$|^tpm\.slot-incomplete$/, why);
      } finally {
        await tpm.close();
      }
      await loseVolatile(chip);
      const after = await chip.use((next) => showSlot(next, 0, chip.access(next).recovery));
      if (after.interrupted === null) {
        assert.deepEqual([after.state, after.keyName, after.uri], ['ready', before.keyName, before.uri], why);
      } else taken += 1;
      // Of a key that was not loaded yet the record tells only what is to be freed: its key is registered anew.
      const { outcome } = await chip.use((then) => checkRepair(chip.access(then), 0));
      if (outcome === 'finished') finishable += 1;
      assert.ok(['nothing', 'undone', 'finished'].includes(outcome), why);
      // Without being told to register anew: whatever was begun is finished, and nothing is done where nothing was.
      const next = await register(chip);
      assert.equal(next.keyName === before.keyName, lethal < 12, why);
      assert.equal(next.alreadyRegistered, lethal < 12 || outcome === 'finished', why);
      assert.deepEqual(await contents(chip), whole, why);
      await chip.use((then) => assertAccepted(service, then, 0));
    }
    assert.ok(lethal > 30 && taken > 4, `${lethal} commands, ${taken} of them in the midst of the change`);
    assert.equal(
      taken - finishable,
      2,
      'only before the new key is loaded and has signed there is nothing to finish',
    );
    await chip.use((tpm) => assertAccepted(service, tpm, 0));
  });

  it('to the hub keeps the identity from being judged, and nothing else', async (t) => {
    const chip = await softwareTpm(t, { blank: true });
    await enroll(chip, service);
    const outcome = await register(chip, { hubCheck: () => Promise.resolve(false) });
    assert.equal(outcome.hubVerified, false);
    await chip.use((tpm) => assertAccepted(service, tpm, 0));
  });
});
