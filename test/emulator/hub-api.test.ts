/** The emulated hub as devices and modules see it. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { after, before, describe, it } from 'node:test';
import { connect } from 'node:tls';
import { remove, startRig, temporaryDirectory, type Answer, type CallOptions, type Rig } from './rig.ts';
import { softwareChip, SoftwareDevice, token, type Registered } from './software-device.ts';

let dir = '';
let rig: Rig;
let device: Registered;
let hub = '';
/** With characters that need to be encoded. */
const deviceId = "Press%17;#(a)'b";
const apiVersion = 'api-version=2021-04-12';

before(async () => {
  dir = await temporaryDirectory();
  rig = await startRig({ dir });
  const chip = softwareChip();
  const one = new SoftwareDevice(rig, 'press-17', chip);
  const initialTwin = { tags: { line: 3 }, properties: { desired: { speed: 5 } } };
  await one.enroll({ deviceId, initialTwin, capabilities: { iotEdge: true } });
  device = await one.register();
  hub = device.state.assignedHub;
  const other = new SoftwareDevice(rig, 'press-18', chip);
  await other.enroll({ iotHubHostName: 'plant.azure-devices.net' });
  await other.register();
});

after(async () => {
  await rig.close();
  await remove(dir);
});

interface HubAnswer {
  readonly Message: string;
  readonly ExceptionMessage: string;
  readonly moduleId: string;
  readonly deviceId: string;
  readonly managedBy: string | null;
  readonly generationId: string;
  readonly etag: string;
  readonly authentication: {
    readonly type: string;
    readonly symmetricKey: { readonly primaryKey: string; readonly secondaryKey: string };
  };
}

const hubAnswer = ({ json }: Answer): HubAnswer => json as unknown as HubAnswer;
const ask = (method: string, path: string, options: CallOptions = {}): Promise<Answer> =>
  rig.callAt(rig.emulator.info.hubHost, method, path, { query: apiVersion, ...options });

const devicePath = `/devices/${encodeURIComponent(deviceId)}`;
const modulePath = (moduleId: string): string => `${devicePath}/modules/${moduleId}`;
const resource = (moduleId?: string, host = hub): string =>
  `${host}/devices/${deviceId}${moduleId === undefined ? '' : `/modules/${moduleId}`}`;
const deviceToken = (): string => token(encodeURIComponent(resource()), device.key);

function refused(answer: Answer, status: number, code: string, message: RegExp): void {
  assert.equal(answer.status, status, answer.text);
  assert.equal(answer.headers['iothub-errorcode'], code);
  const { Message, ExceptionMessage } = hubAnswer(answer);
  assert.ok(Message.startsWith(`ErrorCode:${code};`), Message);
  assert.match(Message, message);
  assert.match(
    ExceptionMessage,
    /^Tracking ID:[0-9a-f]{32}-G:0-TimeStamp:\d{2}\/\d{2}\/\d{4} \d{2}:\d{2}:\d{2}$/,
  );
}

describe('a device', () => {
  it('sends a message of any kind, and receives none', async () => {
    const authorization = deviceToken();
    for (const raw of ['{"temperature":20}', Buffer.from([0, 255, 1]), '']) {
      const headers = { 'content-type': 'application/octet-stream' };
      const { status } = await ask('POST', `${devicePath}/messages/events`, { authorization, raw, headers });
      assert.equal(status, 204);
    }
    const received = await ask('GET', `${devicePath}/messages/devicebound`, { authorization });
    assert.deepEqual([received.status, received.text], [204, '']);
    const large = { authorization, raw: Buffer.alloc(256 * 1024 + 1) };
    refused(await ask('POST', `${devicePath}/messages/events`, large), 413, 'MessageTooLarge', /256 KiB/);
    const huge = { authorization, raw: Buffer.alloc(5 * 1024 * 1024) };
    refused(await ask('POST', `${devicePath}/messages/events`, huge), 413, 'MessageTooLarge', /MiB/);
  });

  it('reads its twin, which begins as its enrollment said', async () => {
    const { status, json } = await ask('GET', `/twins/${encodeURIComponent(deviceId)}`, {
      authorization: deviceToken(),
    });
    assert.equal(status, 200);
    const twin = json as unknown as Readonly<Record<string, unknown>>;
    assert.equal(twin['deviceId'], deviceId);
    assert.deepEqual(twin['tags'], { line: 3 });
    assert.deepEqual(twin['capabilities'], { iotEdge: true });
    const { desired } = twin['properties'] as { desired: Record<string, unknown> };
    assert.equal(desired['speed'], 5);
    assert.equal(desired['$version'], 1);
  });

  it('is accepted by tokens as Azure and as Limpet write them', async () => {
    for (const sr of [
      encodeURIComponent(resource()),
      encodeURIComponent(resource()).replaceAll(/%[0-9A-F]{2}/g, (code) => code.toLowerCase()),
      encodeURIComponent(resource(undefined, hub.toUpperCase())),
      resource(),
    ]) {
      const authorization = token(sr, device.key);
      const { status, text } = await ask('GET', `${devicePath}/messages/devicebound`, { authorization });
      assert.equal(status, 204, `${sr} ${text}`);
    }
  });

  it('is refused with anything else', async () => {
    const past = Math.floor(Date.now() / 1000) - 1;
    const sr = encodeURIComponent(resource());
    const bad: readonly (readonly [string | null, RegExp])[] = [
      [null, /no Authorization header/],
      ['Bearer x', /not a SharedAccessSignature/],
      [token(sr, randomBytes(32)), /not signed with a key of this device/],
      [token(sr, device.key, '', past), /has expired/],
      [token(sr, device.key).replace(/se=\d+/, `se=${past + 9999}`), /not signed with a key of this device/],
      [token(encodeURIComponent(hub), device.key), /another resource/],
      [token(encodeURIComponent(`${hub}/devices`), device.key), /another resource/],
      [token(encodeURIComponent(`${hub}/devices/${deviceId.slice(0, -1)}`), device.key), /another resource/],
      [token(encodeURIComponent(resource().toLowerCase()), device.key), /another resource/],
      [token(encodeURIComponent(resource('m1')), device.key), /another resource/],
      [token(encodeURIComponent(resource(undefined, 'plant.azure-devices.net')), device.key), /not signed/],
      [token(encodeURIComponent(resource(undefined, rig.emulator.info.hubHost)), device.key), /not signed/],
      [`${token(sr, device.key)}&sr=x`, /does not consist of/],
      [token('%', device.key), /another resource/],
    ];
    for (const [authorization, message] of bad) {
      const answer = await ask('GET', `${devicePath}/messages/devicebound`, { authorization });
      refused(answer, 401, 'IotHubUnauthorizedAccess', message);
    }
    // That there is no such device is not told.
    const unknown = await ask('GET', '/devices/nobody/messages/devicebound', {
      authorization: token(encodeURIComponent(`${hub}/devices/nobody`), device.key),
    });
    refused(unknown, 401, 'IotHubUnauthorizedAccess', /not signed with a key/);
    // Under the name of one hub a token for another is worth nothing.
    const elsewhere = await ask('GET', `${devicePath}/messages/devicebound`, {
      authorization: deviceToken(),
      headers: { host: 'plant.azure-devices.net' },
    });
    refused(elsewhere, 401, 'IotHubUnauthorizedAccess', /another hub/);
  });

  it('is told what the hub of the emulator does not have, whoever asks', async () => {
    const authorization = token(encodeURIComponent(hub), device.key, '&skn=iothubowner');
    for (const [method, path] of [
      ['GET', '/devices'],
      ['GET', devicePath],
      ['DELETE', devicePath],
      ['PATCH', `/twins/${encodeURIComponent(deviceId)}`],
      ['POST', '/devices/query'],
      ['GET', '/configurations'],
      ['GET', '/$iothub/websocket'],
    ] as const) {
      const answer = await ask(method, path, { authorization });
      refused(answer, 501, 'NotImplemented', /is not emulated: of IoT Hub there is .*nothing for operators$/);
    }
    // What operators may ask as devices do.
    for (const path of [`/twins/${encodeURIComponent(deviceId)}`, modulePath('m1')]) {
      const answer = await ask('GET', path, { authorization });
      refused(answer, 501, 'NotImplemented', /tokens of shared access policies are not emulated/);
    }
    refused(
      await ask('GET', `${devicePath}/messages/devicebound`, { query: '' }),
      400,
      'ArgumentInvalid',
      /api-version/,
    );
  });
});

describe('a module', () => {
  it('is made and read by its device, and speaks for itself', async () => {
    const authorization = deviceToken();
    refused(await ask('GET', modulePath('m1'), { authorization }), 404, 'ModuleNotFound', /does not exist/);
    const body = { deviceId, moduleId: 'm1', managedBy: 'iotdm' };
    const made = await ask('PUT', modulePath('m1'), { authorization, body });
    assert.equal(made.status, 201);
    const module = hubAnswer(made);
    assert.deepEqual([module.deviceId, module.moduleId, module.managedBy], [deviceId, 'm1', 'iotdm']);
    assert.equal(module.authentication.type, 'sas');
    const { primaryKey, secondaryKey } = module.authentication.symmetricKey;
    const [primary, secondary] = [primaryKey, secondaryKey].map((key) => Buffer.from(key, 'base64'));
    assert.equal(primary?.length, 32);
    assert.deepEqual((await ask('GET', modulePath('m1'), { authorization })).json, made.json);

    const own = encodeURIComponent(resource('m1'));
    for (const key of [primary, secondary]) {
      assert.ok(key);
      const events = { authorization: token(own, key), raw: '{}' };
      assert.equal((await ask('POST', `${modulePath('m1')}/messages/events`, events)).status, 204);
      const mine = { authorization: token(own, key) };
      assert.equal((await ask('GET', `${modulePath('m1')}/messages/devicebound`, mine)).status, 204);
      const twin = await ask('GET', `/twins/${encodeURIComponent(deviceId)}/modules/m1`, mine);
      assert.equal(hubAnswer(twin).moduleId, 'm1');
      // It cannot act for its device, nor its device for it.
      refused(
        await ask('GET', `${devicePath}/messages/devicebound`, mine),
        401,
        'IotHubUnauthorizedAccess',
        /sr/,
      );
      refused(await ask('GET', modulePath('m1'), mine), 401, 'IotHubUnauthorizedAccess', /sig/);
    }
    for (const wrong of [authorization, token(own, device.key)]) {
      const answer = await ask('GET', `${modulePath('m1')}/messages/devicebound`, { authorization: wrong });
      refused(answer, 401, 'IotHubUnauthorizedAccess', /sr|sig/);
    }
    // The device may also sign for just this module.
    assert.equal((await ask('GET', modulePath('m1'), { authorization: token(own, device.key) })).status, 200);
  });

  it('cannot pass for a device by a name with a slash', async () => {
    const authorization = deviceToken();
    const made = hubAnswer(await ask('PUT', modulePath('m5'), { authorization, body: {} }));
    const key = Buffer.from(made.authentication.symmetricKey.primaryKey, 'base64');
    for (const id of [`${deviceId}/m5`, `${deviceId}/modules/m5`]) {
      const forged = { authorization: token(encodeURIComponent(`${hub}/devices/${id}`), key) };
      for (const path of ['messages/devicebound', 'modules/m5']) {
        const answer = await ask('GET', `/devices/${encodeURIComponent(id)}/${path}`, forged);
        refused(answer, 401, 'IotHubUnauthorizedAccess', /sig/);
      }
    }
  });

  it('is not made twice, and keeps its keys when it is changed', async () => {
    const authorization = deviceToken();
    const body = { deviceId, moduleId: 'm2' };
    const made = hubAnswer(await ask('PUT', modulePath('m2'), { authorization, body }));
    const again = await ask('PUT', modulePath('m2'), { authorization, body });
    refused(again, 409, 'ModuleAlreadyExistsOnDevice', /exists already/);
    const stale = { authorization, body, headers: { 'if-match': '"x"' } };
    refused(await ask('PUT', modulePath('m2'), stale), 412, 'PreconditionFailed', /etag/);
    const changed = await ask('PUT', modulePath('m2'), { authorization, body, headers: { 'if-match': '*' } });
    assert.equal(changed.status, 200);
    assert.deepEqual(hubAnswer(changed).authentication, made.authentication);
    assert.equal(hubAnswer(changed).generationId, made.generationId);
    assert.notEqual(hubAnswer(changed).etag, made.etag);
    const [primaryKey, secondaryKey] = [20, 64].map((size) => randomBytes(size).toString('base64'));
    const keys = { type: 'sas', symmetricKey: { primaryKey, secondaryKey } };
    const given = await ask('PUT', modulePath('m3'), { authorization, body: { authentication: keys } });
    assert.deepEqual(hubAnswer(given).authentication.symmetricKey, keys.symmetricKey);
  });

  it('is refused when its description is not valid', async () => {
    const authorization = deviceToken();
    const key = randomBytes(32).toString('base64');
    const keys = (symmetricKey: unknown): unknown => ({ authentication: { type: 'sas', symmetricKey } });
    for (const body of [
      { deviceId: 'other' },
      { moduleId: 'other' },
      { managedBy: 5 },
      { authentication: { type: 'selfSigned' } },
      { authentication: [] },
      keys({ primaryKey: key }),
      keys({ primaryKey: 'x', secondaryKey: key }),
      keys({ primaryKey: key, secondaryKey: randomBytes(15).toString('base64') }),
      keys({ primaryKey: key, secondaryKey: randomBytes(65).toString('base64') }),
      null,
      [],
    ]) {
      const answer = await ask('PUT', modulePath('m4'), { authorization, body });
      refused(answer, 400, 'ArgumentInvalid', /./);
    }
    const long = await ask('PUT', modulePath('m'.repeat(129)), { authorization, body: {} });
    refused(long, 400, 'ArgumentInvalid', /moduleId/);
    refused(await ask('GET', modulePath('m4'), { authorization }), 404, 'ModuleNotFound', /m4/);
  });

  it('stays when its device registers again, and after a restart', async () => {
    const one = new SoftwareDevice(rig, 'press-20');
    await one.enroll();
    const before = await one.register();
    const as = ({ key, state }: Registered): string =>
      token(encodeURIComponent(`${state.assignedHub}/devices/press-20`), key);
    const path = '/devices/press-20/modules/m';
    const made = await ask('PUT', path, { authorization: as(before), body: {} });
    const after = await one.register();
    assert.deepEqual((await ask('GET', path, { authorization: as(after) })).json, made.json);
    await rig.close();
    rig = await startRig({ dir });
    assert.deepEqual((await ask('GET', path, { authorization: as(after) })).json, made.json);
  });
});

describe("the hub's certificate", () => {
  const names = async (servername: string): Promise<string> => {
    const ca = await readFile(rig.emulator.info.ca, 'utf8');
    const port = Number(rig.emulator.info.hubHost.split(':')[1]);
    return new Promise((resolve, reject) => {
      const socket = connect({
        host: '127.0.0.1',
        port,
        ca,
        servername,
        checkServerIdentity: () => undefined,
      });
      socket.on('error', reject);
      socket.on('secureConnect', () => {
        resolve(String(socket.getPeerCertificate().subjectaltname));
        socket.destroy();
      });
    });
  };

  it('is for its name and address, and for the name of every hub that a device was assigned to', async () => {
    const own = 'IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:localhost, DNS:iotdm-hub.localhost';
    assert.equal(await names('iotdm-hub.localhost'), own);
    assert.equal(await names('localhost'), own);
    assert.equal(await names('plant.azure-devices.net'), 'DNS:plant.azure-devices.net');
    assert.equal(await names('PLANT.azure-devices.net'), 'DNS:plant.azure-devices.net');
    assert.equal(await names('nobody.azure-devices.net'), own);
  });

  it('lets a device connect by the name that it was assigned', async () => {
    const ca = await readFile(rig.emulator.info.ca, 'utf8');
    const port = Number(rig.emulator.info.hubHost.split(':')[1]);
    const status = await new Promise((resolve, reject) => {
      const sent = request(
        {
          host: '127.0.0.1',
          port,
          ca,
          servername: hub,
          path: `${devicePath}/messages/devicebound?${apiVersion}`,
          headers: { host: hub, authorization: deviceToken() },
        },
        (response) => {
          response.resume();
          resolve(response.statusCode);
        },
      );
      sent.on('error', reject);
      sent.end();
    });
    assert.equal(status, 204);
  });
});
