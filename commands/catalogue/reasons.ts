/**
 * What mends each of the causes that a code may have: the hint follows the cause, where whoever threw the error knew it.
 * The compiler refuses a cause without an entry.
 */
import type { ErrorCode, ErrorReason } from '../../src/errors.ts';
import type { Fix, Situation } from './entry.ts';

export interface ReasonEntry {
  /** Under another code the error is about more than this cause. */
  readonly codes: readonly ErrorCode[];
  readonly fix: Fix;
}

const setClock =
  'compare the clock of this machine with the real time, and set it (Linux: timedatectl set-ntp true; Windows: w32tm /resync)';

/** What has named the host that was asked. */
function whereNamed({ details, command }: Situation): string {
  if (details['service'] === 'hub') return "the slot's URI, or --hub-host,";
  if (typeof details['idScope'] === 'string') return '--device-host (or IOTDM_DEVICE_HOST)';
  if (command.startsWith('iotdm device') || command.startsWith('iotdm provision'))
    return 'the host that was given';
  return "--dps, or HostName in the service's connection string,";
}

function hostOf({ details }: Situation): string {
  return typeof details['host'] === 'string' ? details['host'] : 'the host';
}

/** Of the proxy's own certificate the proxy's setting is to be looked at, of all others the host's. */
function isOfProxy({ details }: Situation): boolean {
  return details['proxy'] !== undefined && details['host'] === undefined;
}

function certificate(fix: (situation: Situation) => string): ReasonEntry {
  return { codes: ['network.tls', 'network.proxy'], fix };
}

function proxyEntry(fix: (situation: Situation) => string): ReasonEntry {
  return { codes: ['network.proxy'], fix };
}

function proxyOf({ details }: Situation): string {
  return typeof details['proxy'] === 'string' ? `the proxy ${details['proxy']}` : 'the proxy on the way';
}

export const reasonEntries: Readonly<Record<ErrorReason, ReasonEntry>> = {
  'certificate-other-host': certificate((situation) =>
    isOfProxy(situation)
      ? 'check that --proxy (or HTTPS_PROXY) names the proxy as its certificate does'
      : `check that ${whereNamed(situation)} names the host as its certificate does, and that this name leads there: getent hosts ${bareHost(situation)}`,
  ),
  'certificate-expired': certificate(
    (situation) =>
      `${setClock}; if it is right, whoever runs ${isOfProxy(situation) ? proxyOf(situation) : hostOf(situation)} has to renew the certificate`,
  ),
  'certificate-not-yet-valid': certificate(
    () => `${setClock}: it is probably behind, as after a dead battery or on a board that has no clock`,
  ),
  'certificate-unknown-authority': certificate((situation) =>
    isOfProxy(situation)
      ? 'give the certificate authority of the proxy with --ca FILE (or IOTDM_CA)'
      : 'if this is the emulator or an inspecting proxy, give its certificate authority with --ca FILE (or IOTDM_CA); of an authority in between, FILE must hold the root too',
  ),
  'certificate-self-signed': certificate((situation) =>
    isOfProxy(situation)
      ? 'if it is the right proxy, give this very certificate with --ca FILE (or IOTDM_CA)'
      : `no service of Azure's has such a certificate: check that ${whereNamed(situation)} names the right host; of a test server that you know, give this very certificate with --ca FILE`,
  ),
  'certificate-revoked': certificate(
    (situation) =>
      `do not connect: its authority has withdrawn it; ask whoever runs ${isOfProxy(situation) ? proxyOf(situation) : hostOf(situation)}`,
  ),
  'certificate-invalid': certificate(
    (situation) =>
      `ask whoever runs ${isOfProxy(situation) ? proxyOf(situation) : hostOf(situation)} for a certificate that holds; if its authority was renewed, give the new one with --ca FILE`,
  ),
  'no-tls': certificate((situation) =>
    typeof situation.details['proxy'] === 'string' && !isOfProxy(situation)
      ? `have whoever runs ${proxyOf(situation)} let ${hostOf(situation)} through: it, or what it leads to, answers in plain text where TLS was begun`
      : `what listens there does not speak TLS: check the port in ${whereNamed(situation)} or whether something on the way answers in its place`,
  ),
  'tls-refused': certificate(
    (situation) =>
      `${hostOf(situation)}, or something on the way such as a firewall or proxy, does not agree on TLS 1.2 or 1.3 with this machine: try it with: openssl s_client -connect ${withPort(situation)}`,
  ),
  'name-unknown': {
    codes: ['network.unreachable', 'network.proxy'],
    fix: (situation) =>
      isOfProxy(situation)
        ? 'check the name in --proxy (or HTTPS_PROXY)'
        : `check the name in ${whereNamed(situation)} and whether the network is left through a proxy only: --proxy URL, or HTTPS_PROXY`,
  },
  'nothing-listens': {
    codes: ['network.unreachable', 'network.proxy'],
    fix: (situation) =>
      isOfProxy(situation)
        ? 'check host and port in --proxy (or HTTPS_PROXY), and whether the proxy runs'
        : `check host and port in ${whereNamed(situation)} and, of an emulator, whether it runs: iotdm emulator status`,
  },
  'no-route': {
    codes: ['network.unreachable', 'network.proxy'],
    fix: 'check the network of this machine, and whether it is left through a proxy only: --proxy URL, or HTTPS_PROXY',
  },
  'not-connected': {
    codes: ['network.timeout', 'network.proxy'],
    fix: (situation) =>
      isOfProxy(situation)
        ? 'check host and port in --proxy (or HTTPS_PROXY), and the network to it'
        : 'check the network and its firewall: nothing came back from there; if it is left through a proxy only: --proxy URL, or HTTPS_PROXY',
  },
  'proxy-credentials': proxyEntry(() => 'set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT in the environment'),
  'proxy-refuses': proxyEntry(
    (situation) =>
      `have whoever runs ${proxyOf(situation)} let it connect to ${hostOf(situation)}, or reach it without: NO_PROXY=${bareHost(situation)}`,
  ),
  'proxy-page': proxyEntry(
    (situation) =>
      `have whoever runs ${proxyOf(situation)} let ${hostOf(situation)} through unchanged; if there is none, check that ${whereNamed(situation)} names the right host`,
  ),
  'proxy-login': proxyEntry(
    (situation) =>
      `${proxyOf(situation)} leads to a page to log in: log in there with a browser on this machine, or have ${hostOf(situation)} let through without`,
  ),
  'proxy-gateway': proxyEntry(
    (situation) =>
      `${proxyOf(situation)} could not reach ${hostOf(situation)}: run the same command again later, or ask whoever runs the proxy`,
  ),
  'endorsement-key-refused': {
    codes: ['service.invalid'],
    fix: 'compare iotdm ek read on the device with iotdm enrollment show ID; enroll the value that the device shows',
  },
  'registration-id-refused': {
    codes: ['service.invalid'],
    fix: ({ details }) =>
      typeof details['idScope'] === 'string'
        ? 'give the registration id of the enrollment with --registration-id; without it, it is the one derived from the EK: iotdm ek read'
        : 'take letters and digits with - . _ : between them, at most 128; without a registration id, it is the one derived from the EK',
  },
  'device-id-refused': {
    codes: ['service.invalid'],
    fix: "take another device id: at most 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '",
  },
  'api-version-refused': {
    codes: ['service.invalid'],
    fix: (situation) =>
      `this cloud or service does not have the version of the API that is spoken here; nothing is wrong with the device: check that ${whereNamed(situation)} names the right host, and look for a newer iotdm`,
  },
  firewall: {
    codes: ['auth.refused'],
    fix: 'the credentials are not at fault: allow the address of this network under Networking of the service in the portal',
  },
  quota: {
    codes: ['network.throttled'],
    fix: "the hub's quota for today is used up: wait for midnight UTC, or add units to the hub in the portal",
  },
  'export-format': {
    codes: ['usage.unsupported'],
    fix: 'export with --format dps-json, which has a place for everything, or leave that out of the input',
  },
  'access-broker': {
    codes: ['usage.unsupported'],
    fix: 'use device:/dev/tpmrm0, where the kernel manages the TPM for several programs',
  },
  'not-windows': {
    codes: ['usage.unsupported'],
    fix: 'leave --tpm (and IOTDM_TPM) out, or name the TPM as this system does; see which there are: iotdm tpm list',
  },
  'settings-file': {
    codes: ['input.invalid', 'input.unreadable'],
    fix: 'mend the settings file, or name another one with --config FILE',
  },
  'emulator-state': {
    codes: ['input.invalid', 'input.unreadable'],
    fix: 'begin with another state: --dir DIR; or forget this one, with all that was enrolled in it: iotdm emulator stop --wipe',
  },
  'emulator-runs': {
    codes: ['input.locked'],
    fix: ({ details }) =>
      `end it with: iotdm emulator stop --dir ${typeof details['dir'] === 'string' ? details['dir'] : 'DIR'}; or choose another state: --dir DIR`,
  },
  'emulator-hangs': {
    codes: ['input.locked'],
    fix: ({ details }) =>
      `end it by force: kill -KILL ${typeof details['pid'] === 'number' ? details['pid'] : 'PID'}`,
  },
  'emulator-of-another': {
    codes: ['input.locked'],
    fix: 'end it as the user who started it, or choose another state: --dir DIR',
  },
  'extra-authority': {
    codes: ['input.invalid'],
    fix: 'give a file of PEM certificates with --ca (or IOTDM_CA); what one holds is shown by: openssl x509 -text -noout -in FILE',
  },
  'token-goes-elsewhere': {
    codes: ['usage.invalid'],
    fix: 'check --dps (or IOTDM_DPS_HOST), or give the connection string of that service with --dps-connection-string-file FILE',
  },
  'no-device-node': {
    codes: ['tpm-unavailable.not-found'],
    fix: 'name the device node of the TPM, such as --tpm device:/dev/tpmrm0; a socket of swtpm is --tpm swtpm:path=FILE',
  },
  'simulator-failed': {
    codes: ['tpm-unavailable.connection'],
    fix: 'see what swtpm says above and in the log of its state, or begin with another state: --dir DIR',
  },
  'record-file': {
    codes: ['input.invalid'],
    fix: 'give another file with --record, or move this one away',
  },
  'changed-while-read': {
    codes: ['verify.manifest'],
    fix: 'run the same command again when nobody writes to it any more',
  },
  'other-identity': {
    codes: ['verify.slot'],
    fix: ({ details, command }) =>
      command.startsWith('iotdm slot')
        ? `check which slot is meant and whose connection string this is: iotdm slot list; if the slot is to hold it: iotdm slot write ${slotOf(details)} --overwrite --connection-string-file FILE`
        : `check which device and slot are meant: iotdm slot list; if what slot ${slotOf(details)} holds is to be replaced, pass --overwrite`,
  },
  'other-key': {
    codes: ['verify.slot'],
    fix: ({ details }) =>
      `compare the connection string with what the hub shows for the device, whose keys may have been renewed; if it is right: iotdm slot write ${slotOf(details)} --overwrite --connection-string-file FILE`,
  },
  'no-symmetric-key': {
    codes: ['service.invalid'],
    fix: 'the module has another kind of authentication at its hub: give it a symmetric key in the portal, or delete it there and run the same command again',
  },
  'not-a-report': {
    codes: ['usage.output-exists'],
    fix: 'choose another name for --faults',
  },
  'module-slot': {
    codes: ['usage.invalid'],
    fix: 'name the slot of the device with --device-slot; which slot holds what is shown by: iotdm slot list',
  },
};

function slotOf(details: Readonly<Record<string, unknown>>): string {
  return typeof details['slot'] === 'number' ? String(details['slot']) : 'N';
}

function bareHost(situation: Situation): string {
  return hostOf(situation)
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '');
}

function withPort(situation: Situation): string {
  const host = hostOf(situation);
  return /:\d+$/.test(host) ? host : `${host}:443`;
}
