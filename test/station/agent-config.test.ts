import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { IotdmError } from '../../src/errors.ts';
import { parseAgentConfig, parseModuleSlot } from '../../src/station/agent-config.ts';

const config = {
  sasExpiryInterval: 86400,
  dpsUri: 'global.azure-devices-provisioning.net',
  dpsScopeId: '0ne000567F7',
  deviceSlotNumber: 0,
  dmModuleSlotNumber: 1,
  dmModuleId: 'dmModule',
  otherModuleIds: { AppB: 2 },
  handlers: { deviceInfo: { reportOnConnect: true } },
};

const parse = (changes: Readonly<Record<string, unknown>> = {}) =>
  parseAgentConfig(JSON.stringify({ ...config, ...changes }));

describe("the Device Agent's configuration", () => {
  it('says which identities belong in which slots', () => {
    assert.deepEqual(parse(), {
      deviceHost: 'global.azure-devices-provisioning.net',
      idScope: '0ne000567F7',
      deviceSlot: 0,
      modules: [
        { moduleId: 'dmModule', slot: 1 },
        { moduleId: 'AppB', slot: 2 },
      ],
    });
  });

  it('has no module of its own where the agent uses the identity of the device', () => {
    assert.deepEqual(parse({ dmModuleSlotNumber: 0 }).modules, [{ moduleId: 'AppB', slot: 2 }]);
    assert.deepEqual(parse({ deviceSlotNumber: 1, otherModuleIds: {} }).modules, []);
    assert.deepEqual(parse({ dmModuleId: null, dmModuleSlotNumber: null }).modules.length, 1);
    assert.equal(parse({ dmModuleId: '' }).modules[0]?.moduleId, 'WindowsIoTDM');
  });

  it('is understood in the forms that people write', () => {
    const others = [{ moduleId: 'A', slot: 3 }, { id: 'B', slotNumber: '4' }, 'C=D=5'];
    assert.deepEqual(parse({ otherModuleIds: others }).modules.slice(1), [
      { moduleId: 'A', slot: 3 },
      { moduleId: 'B', slot: 4 },
      { moduleId: 'C=D', slot: 5 },
    ]);
    assert.deepEqual(parseAgentConfig('\uFEFF{}'), {
      deviceHost: null,
      idScope: null,
      deviceSlot: 0,
      modules: [],
    });
    assert.equal(
      parse({ dpsUri: 'https://global.azure-devices-provisioning.net/' }).deviceHost,
      config.dpsUri,
    );
    assert.equal(parse({ dpsUri: '', dpsScopeId: ' ' }).idScope, null);
  });

  it('that cannot be carried out is refused, and no value of it is quoted', () => {
    const secret = 'HostName=h;DeviceId=d;SharedAccessKey=bWFya2Vk';
    for (const [changes, message] of [
      [{ deviceSlotNumber: 10 }, /deviceSlotNumber is not a number/],
      [{ deviceSlotNumber: -1 }, /deviceSlotNumber/],
      [{ deviceSlotNumber: 0.5 }, /deviceSlotNumber/],
      [{ dpsUri: 7 }, /dpsUri is not a text/],
      [{ dmModuleSlotNumber: undefined }, /no dmModuleSlotNumber/],
      [{ dmModuleId: secret + '/' }, /a module id is not what IoT Hub allows/],
      [{ otherModuleIds: { AppB: 0 } }, /slot 0 is the device's/],
      [{ otherModuleIds: { AppB: 1 } }, /slot 1 is given to dmModule and to AppB/],
      [{ otherModuleIds: { dmModule: 2 } }, /module dmModule is given two slots/],
      [{ otherModuleIds: { AppB: 'x' } }, /the slot of module AppB/],
      [{ otherModuleIds: 'AppB' }, /neither an object nor a list/],
      [{ otherModuleIds: ['AppB'] }, /names no module and slot/],
      [{ otherModuleIds: [secret] }, /names no module and slot/],
      [{ otherModuleIds: [7] }, /names no module and slot/],
    ] as const) {
      assert.throws(
        () => parse({ debugConnectionString: secret, ...changes }),
        (error) =>
          error instanceof IotdmError &&
          error.code === 'input.invalid' &&
          message.test(error.message) &&
          !error.message.includes('SharedAccessKey'),
        JSON.stringify(changes),
      );
    }
    for (const text of ['', '[]', 'null', '{', secret]) {
      assert.throws(() => parseAgentConfig(text), { code: 'input.invalid' });
    }
  });

  it('is parsed or refused, whatever it holds', () => {
    fc.assert(
      fc.property(
        fc.object({ key: fc.constantFrom(...Object.keys(config), 'moduleId', 'slot') }),
        (value) => {
          try {
            parseAgentConfig(JSON.stringify(value));
          } catch (error) {
            assert.ok(error instanceof IotdmError && error.code === 'input.invalid');
          }
        },
      ),
    );
  });
});

describe('MODULE=SLOT', () => {
  it('is split at the last sign', () => {
    assert.deepEqual(parseModuleSlot('AppB=2'), { moduleId: 'AppB', slot: 2 });
    assert.deepEqual(parseModuleSlot('a=b=9'), { moduleId: 'a=b', slot: 9 });
    for (const text of ['', '=', '=2', 'AppB', 'AppB=', 'AppB=10', 'App/B=2', 'AppB=-1']) {
      assert.equal(parseModuleSlot(text), undefined, text);
    }
  });
});
