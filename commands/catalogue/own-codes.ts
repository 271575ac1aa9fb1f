/** iotdm's own error codes. The compiler refuses a code without an entry; the fix is the hint of every such error. */
import type { ErrorCode } from '../../src/errors.ts';
import type { Entry, Situation } from './entry.ts';

const permission =
  'run as root, or join the group that owns the device: sudo usermod -aG tss $USER, then log in again';
const reach = 'check --tpm (or IOTDM_TPM), or start a software TPM with: iotdm simulator start';
const authorization =
  'give the authorization value with --owner-auth-file, --endorsement-auth-file or --lockout-auth-file (or IOTDM_OWNER_AUTH, IOTDM_ENDORSEMENT_AUTH, IOTDM_LOCKOUT_AUTH)';
const help = ({ command }: Situation): string => `run: ${command} --help`;

const certificateElsewhere =
  'firmware TPMs of Intel and AMD have none in them, their vendor serves it on the web: iotdm ek read --format tpm2b --out ek.pub, ' +
  'tpm2_getekcertificate -u ek.pub -o ek.crt, then: iotdm ek verify --cert ek.crt';

const makeStationKey =
  'make an Ed25519 key for the station: openssl genpkey -algorithm ed25519 -out station.key, and for those who check: openssl pkey -in station.key -pubout -out station.pub';

const stationKeyFixes: Readonly<Record<string, string>> = {
  encrypted:
    'decrypt it into a file that only this user can read: (umask 077; openssl pkey -in FILE -out station.key), or make one without a passphrase for this station: openssl genpkey -algorithm ed25519 -out station.key',
  'not-private': 'give the private key with --sign-key; the public one is for --verify-key',
  'not-public': 'give the public key of the station: openssl pkey -in station.key -pubout -out station.pub',
};

/** By the verdict of `ek verify`. */
const verdictFixes: Readonly<Record<string, string>> = {
  untrusted:
    "if an issuer is missing, get the root and intermediate certificates of the TPM's vendor, check where they come from, and give them with --roots (or IOTDM_EK_ROOTS)",
  mismatched:
    'if another program put another EK at 0x81010001, remove it with tpm2_evictcontrol; otherwise do not ship this device: its TPM holds the certificate of another',
  'no-certificate': certificateElsewhere,
  'proof-failed': 'do not ship this device: what answers as its TPM does not hold the key it shows',
};

/** By the status that DPS gave to the registration. */
function notAssignedFix(details: Readonly<Record<string, unknown>>): string {
  const id = typeof details['registrationId'] === 'string' ? details['registrationId'] : 'ID';
  if (details['status'] === 'disabled') {
    return `the enrollment is disabled: enable it with iotdm enrollment update ${id} --provisioning-status enabled, and run the same command again`;
  }
  return `look at the enrollment with: iotdm enrollment show ${id}; check in the portal that an IoT Hub is linked with a valid key and, with custom allocation, that its function works; then run the same command again`;
}

/** Commands that read CSV say with --encoding what a file is. */
function encodingFix({ command }: Situation): string {
  const save = 'save the file as "CSV UTF-8"';
  return /^iotdm (?:enrollment (?:import|export)|harvest|provision)$/.test(command)
    ? `${save}, or say what it is with --encoding, such as --encoding windows-1252 or --encoding utf-16le`
    : `${save}, or in UTF-8 where it is no CSV`;
}

/** By what a spreadsheet has done to values, the one that is worst to mend first. */
const spreadsheetFixes: readonly (readonly [RegExp, string])[] = [
  [
    /number|date/,
    'take the values from their source again, into a column whose format is Text before they come in (Excel: Data, From Text/CSV, type Text), and save as "CSV UTF-8"',
  ],
  [/narrow/, 'make the column wider, or format it as Text, and save as "CSV UTF-8" again'],
  [/error/, 'mend the formulas in these cells, or put values in their place, and save as "CSV UTF-8" again'],
];

function rowsFix(faults: unknown): string {
  const damages = Array.isArray(faults)
    ? faults.map((fault) => String((fault as { damage?: unknown }).damage))
    : [];
  const [, fix] = spreadsheetFixes.find(([kind]) => damages.some((damage) => kind.test(damage))) ?? [];
  return fix === undefined
    ? 'nothing was sent: mend these rows and run the same command again'
    : `nothing was sent: ${fix}; where these values are meant as they stand: --as-text`;
}

export const ownCodes: Readonly<Record<ErrorCode, Entry>> = {
  'internal.unexpected': {
    meaning: 'something happened that nobody foresaw',
    cause: 'a bug in iotdm',
    fix: 'please report this, with what you did and the output of the same command with -v',
  },
  'usage.invalid': {
    meaning: 'the command line cannot be understood; nothing was touched',
    cause: 'a mistyped command, option or value',
    fix: (situation) => {
      const { meant } = situation.details;
      if (typeof meant !== 'string') return help(situation);
      return `pass --tpm ${/\s/.test(meant) ? `"${meant}"` : meant}, or set IOTDM_TPM or TPM2TOOLS_TCTI to it`;
    },
  },
  'usage.secret-in-argv': {
    meaning: 'a secret stood on the command line',
    cause: 'a connection string or key was given as the value of an option',
    fix: 'every user of this machine can read a command line: put the secret into a file and give the file, or - for stdin',
  },
  'usage.no-credentials': {
    meaning: 'a service is to be asked, and there are no credentials for it',
    cause:
      "neither a file nor the environment gives the service's connection string, and no host is named to which Microsoft Entra ID would give access",
    fix: 'pass --dps-connection-string-file FILE or set IOTDM_DPS_CONNECTION_STRING; or pass --dps HOST to use Microsoft Entra ID; for a rehearsal: iotdm emulator start',
  },
  'usage.needs-confirmation': {
    meaning: 'the command destroys something and was not confirmed; nothing was changed',
    cause: 'it runs in a script, where nobody can be asked, or the question was not answered with yes',
    fix: 'pass --yes if that is what you want',
  },
  'usage.output-exists': {
    meaning: 'the output file is already there and was left alone',
    cause: 'the command was run before with the same name',
    fix: 'choose another name, or pass --overwrite to replace it',
  },
  'usage.output-unwritable': {
    meaning: 'the output file cannot be written',
    cause: 'the folder is missing or not writable, or the disk is full',
    fix: ({ command, details }) => {
      if (typeof details['stateDirectory'] === 'string') {
        return `choose another directory with ${stateDirectoryOption(command)}, or mend the permissions of this one`;
      }
      if (details['output'] === 'stdout') {
        return 'check the free space where the output goes; what the command had to change is changed: look at that before you run it again';
      }
      return 'journal' in details
        ? 'check the folder and the free space, keep the journal elsewhere with --journal FILE, or keep none with --no-journal'
        : 'check the name, the permissions of the folder and the free space';
    },
  },
  'usage.unsupported': {
    meaning: 'what was asked for does not exist here',
    cause:
      'a kind of TPM connection that iotdm or this operating system does not have, such as tabrmd, or tbs outside Windows; or a format that has no place for what is to be written',
    fix: 'see in the help of the command what there is in its place',
  },
  'usage.emulator-running': {
    meaning: 'an emulator runs on this state directory already, and does not behave as was asked for',
    cause:
      'quota, latency and faults are given when the emulator is started, and it keeps them until it ends',
    fix: 'end it and start it again: iotdm emulator stop',
  },
  'usage.port-unavailable': {
    meaning: 'a TCP port that was asked for cannot be had on this machine',
    cause: 'another program listens on it, or ports below 1024 are for root only, as 443 is on Linux',
    fix: 'ask for another port, or for none, and a free one is taken; Linux lets users have 443 after: sysctl net.ipv4.ip_unprivileged_port_start=443',
  },
  'input.unreadable': {
    meaning: 'an input file cannot be read',
    cause: 'a wrong name, or a file of another user',
    fix: 'check the name and the permissions of the file',
  },
  'input.invalid': {
    meaning: 'an input file is not what it should be; nothing was touched',
    cause: 'another format than the command expects, or a damaged file',
    fix: (situation) =>
      situation.details['encoding'] === 'unknown' ? encodingFix(situation) : help(situation),
  },
  'input.locked': {
    meaning: 'another process holds the lock of the file',
    cause: 'two stations write to one manifest, and the other one takes long or hangs',
    fix: ({ details }) =>
      typeof details['lock'] === 'string'
        ? `wait for it to end and run the command again; if it was on another machine that is gone, delete ${details['lock']}`
        : 'another iotdm is writing to it: wait for it to end and run the command again',
  },
  'input.changed': {
    meaning: 'the input is not what it was when its rows were checked; nothing was sent of what has changed',
    cause: 'somebody saved or moved the file while it was being read, or it was still being written',
    fix: ({ command }) =>
      command.includes('import')
        ? 'put the file back as it was and run the same command again, or keep the new one and begin anew with --restart: every row is compared then'
        : 'run the same command again when nobody changes the file any more',
  },
  'input.journal': {
    meaning: 'the journal is not that of this import; nothing was sent, and it was left as it is',
    cause:
      'the input was mended or the mode is another since the journal was begun, or the name is that of another file',
    fix: ({ details }) =>
      details['isJournal'] === false
        ? 'give another file with --journal FILE'
        : 'finish that import first, or begin this one with --restart, or keep its journal elsewhere with --journal FILE',
  },
  'input.recovery-damaged': {
    meaning: 'the record of a change to a slot that was interrupted is damaged; nothing was touched',
    cause: 'a file in the state directory that was cut short or changed by hand',
    fix: ({ details }) =>
      `write the slot again with: iotdm slot write ${slotIn(details)} --overwrite --connection-string-file FILE, or empty it with: iotdm slot clear ${slotIn(details)}`,
  },
  'input.key-unsuitable': {
    meaning: 'the key is none that DPS takes as an endorsement key',
    cause: 'an ECC key, an RSA key of another size, or a key of something else',
    fix: 'DPS knows a TPM by its RSA 2048 endorsement key: read it from the device with iotdm ek read, or take its EK certificate',
  },
  'input.private-key': {
    meaning: 'a private key was given where a public one is wanted; it was not used',
    cause: 'the wrong file of a pair',
    fix: 'keep it to yourself, and give the public half: openssl pkey -in FILE -pubout -out public.pem',
  },
  'input.station-key': {
    meaning: 'the key is none that a station can sign with, or that its signature can be checked with',
    cause: 'an encrypted key, a key of another kind than Ed25519, or the wrong half of the pair',
    fix: ({ details }) => stationKeyFixes[String(details['reason'])] ?? makeStationKey,
  },
  'input.rows': {
    meaning: 'rows of the input are faulty; nothing was sent',
    cause: 'a mistyped identity or key in the rows that are named',
    fix: ({ details }) => rowsFix(details['faults']),
  },
  'input.barcode': {
    meaning: 'what came from the barcode scanner is no serial number; the device was not touched',
    cause:
      'a damaged label, another code than that of the serial number, or a scanner that is set up otherwise',
    fix: 'scan the label of the serial number again, or type it and press Enter',
  },
  'tpm-unavailable.not-found': {
    meaning: 'there is no TPM where one was looked for',
    cause:
      'the TPM is switched off in the firmware settings, its driver is missing, or --tpm names another place',
    fix: ({ details }) =>
      typeof details['withoutNode'] === 'string'
        ? `give this container the device, such as with: docker run --device ${details['withoutNode']}`
        : `enable the TPM in the firmware settings, ${reach}`,
  },
  'tpm-unavailable.permission': {
    meaning: 'the TPM is there, and this user may not use it',
    cause: '/dev/tpmrm0 belongs to root and the group tss',
    fix: permission,
  },
  'tpm-unavailable.busy': {
    meaning: 'the TPM is in use or busy and stayed so',
    cause:
      'another program has opened /dev/tpm0, which serves one at a time, another iotdm is changing this TPM, or the chip tests itself after power-on',
    fix: ({ details }) =>
      typeof details['lock'] === 'string'
        ? `wait until it has ended; if that machine or container is gone, remove ${details['lock']}`
        : typeof details['pid'] === 'number'
          ? 'wait until it has ended, or pass --wait 60 to wait for it'
          : 'end the program that uses the TPM, or use /dev/tpmrm0, and run the command again',
  },
  'tpm-unavailable.connection': {
    meaning: 'the connection to the TPM could not be made, or broke',
    cause: 'the simulator or the program behind --tpm is not running or has ended',
    fix: reach,
  },
  'tpm-unavailable.timeout': {
    meaning: 'the TPM did not answer a command within the time limit',
    cause: 'another program holds the TPM, or a slow chip is making an RSA key, which may take a minute',
    fix: 'another program may hold the TPM; a slow chip may need --timeout 300 when it makes a key',
  },
  'tpm-unavailable.protocol': {
    meaning: 'what answers does not answer like a TPM 2.0',
    cause:
      '--tpm names the port of another service, or swtpm: where mssim: is spoken, or the other way round',
    fix: 'check that --tpm names a TPM and not another service',
  },
  'tpm-unavailable.not-started': {
    meaning: 'the TPM waits for TPM2_Startup, which the firmware of a machine sends',
    cause:
      'a simulator without firmware, or a board whose firmware ignores the TPM; iotdm does not start a TPM, as that resets what others left in it',
    fix: 'restart the device, or send TPM2_Startup with: tpm2_startup -c',
  },
  'tpm-unavailable.not-tpm2': {
    meaning: 'the chip is a TPM 1.2',
    cause: 'an old device, or a firmware setting that runs the chip as 1.2',
    fix: 'DPS needs a TPM 2.0: look for a switch from 1.2 to 2.0 in the firmware settings',
  },
  'tpm-unavailable.failure-mode': {
    meaning: 'the TPM has found a fault in itself and refuses to work',
    cause: 'a broken or interrupted firmware update, or a defect',
    fix: 'restart the device; if it stays like this, update its firmware or replace the TPM',
  },
  'tpm-unavailable.unsuitable': {
    meaning: 'the TPM lacks what DPS needs of it',
    cause: 'a chip without RSA 2048, SHA-256, HMAC or AES, or with firmware that has them disabled',
    fix: 'look for newer firmware of this TPM, or use another one',
  },
  'tpm-unavailable.software-missing': {
    meaning: 'a program or library that iotdm uses is not installed',
    cause: 'swtpm for the simulator, or on Windows koffi, which npm leaves out with --omit=optional',
    fix: ({ details }) =>
      details['software'] === 'koffi'
        ? 'install iotdm again without --omit=optional, on Windows'
        : 'install it: sudo apt-get install -y swtpm swtpm-tools',
  },
  'tpm.authorization': {
    meaning: 'the TPM refused the authorization',
    cause:
      'an authorization value is set for the owner, endorsement or lockout hierarchy, and none or a wrong one was given',
    fix: ({ details }) =>
      typeof details['opensAfter'] === 'string'
        ? `give the right value with --lockout-auth-file (or IOTDM_LOCKOUT_AUTH), after ${details['opensAfter']}; or clear the TPM in the firmware settings`
        : authorization,
  },
  'tpm.lockout': {
    meaning: 'the TPM locks authorizations out after wrong values (dictionary attack protection)',
    cause: 'wrong authorization values, or power taken away from a running device several times',
    fix: ({ details }) =>
      typeof details['opensAfter'] === 'string'
        ? `try again after ${details['opensAfter']}, with the right value; or clear the TPM in the firmware settings`
        : 'wait until the TPM recovers, or end the lockout with: tpm2_dictionarylockout --clear-lockout',
  },
  'tpm.hierarchy-disabled': {
    meaning: 'a hierarchy of the TPM is switched off',
    cause: 'the firmware or the operating system disabled it for the time until the next start',
    fix: 'something disabled it since the start: restart the device, and if it stays so, enable it in the firmware settings',
  },
  'tpm.clear-disabled': {
    meaning: 'clearing the TPM is disabled',
    cause: 'the operating system or an administrator forbade it with TPM2_ClearControl',
    fix: 'clear the TPM in the firmware settings, or allow it with the platform authorization: tpm2_clearcontrol -C p c',
  },
  'tpm.no-room': {
    meaning: 'the persistent memory of the TPM is full',
    cause: 'real chips have room for about seven persistent keys, and other programs keep theirs there too',
    fix: 'make room: iotdm slot list shows the slots in use, iotdm slot clear N frees one',
  },
  'tpm.transient-full': {
    meaning: 'the working memory of the TPM is full of keys or sessions',
    cause: 'another program did not flush what it loaded, and no resource manager cleans up after it',
    fix: 'another program left objects behind: use /dev/tpmrm0, or flush them with: tpm2_flushcontext -t',
  },
  'tpm.occupied': {
    meaning: 'something already stands at the handle or NV index',
    cause: 'a key or identity that was written before, by iotdm, Limpet or another program',
    fix: 'look at what stands there with: iotdm slot list --all',
  },
  'tpm.key-missing': {
    meaning: 'nothing stands at the handle or NV index',
    cause: 'the slot or key was never written, or the TPM was cleared since',
    fix: 'look at what the TPM holds with: iotdm slot list --all',
  },
  'tpm.unsupported': {
    meaning: 'the TPM does not have a command or algorithm that is needed',
    cause: 'old firmware, or a reduced TPM',
    fix: 'this TPM lacks a command that iotdm needs: update its firmware',
  },
  'tpm.refused': {
    meaning: 'the TPM refused a command for a reason that has no error code of its own',
    cause: 'named by the TPM response code in the message',
    fix: 'run the command again with -vv to see what was sent to the TPM',
  },
  'tpm.slot-not-empty': {
    meaning: 'the slot holds an identity, which was left alone',
    cause: 'the device was provisioned before',
    fix: 'pass --overwrite to replace what it holds',
  },
  'tpm.slot-empty': {
    meaning: 'the slot holds nothing',
    cause: 'it was never written, another slot is meant, or the TPM was cleared since',
    fix: ({ command, details }) => {
      const slot = slotIn(details);
      return command.startsWith('iotdm module')
        ? `register the device first with: iotdm device register --slot ${slot}`
        : `write it with: iotdm slot write ${slot} --connection-string-file FILE`;
    },
  },
  'tpm.slot-incomplete': {
    meaning: 'the slot holds a key without its name, or a name without its key',
    cause:
      "a tool that was interrupted while it wrote, or one of Azure's SDKs, which keep a key without a name in slot 0",
    fix: ({ command, details }) => {
      const slot = slotIn(details);
      const repair = `iotdm slot repair ${slot}`;
      const again = `iotdm slot write ${slot} --overwrite --connection-string-file FILE`;
      if (typeof details['interrupted'] === 'string')
        return `finish it without the secret: ${repair}; or take it back: ${repair} --undo`;
      if (/^iotdm (?:device|provision)/.test(command)) {
        return 'pass --overwrite to replace it with what DPS gives to this device';
      }
      if (command.startsWith('iotdm module')) {
        return `register the device anew first, which gives it a name: iotdm device register --slot ${slot} --overwrite`;
      }
      return `write it again with: ${again}, or empty it with: iotdm slot clear ${slot}; after an interrupted write: ${repair}`;
    },
  },
  'tpm.slot-foreign': {
    meaning: "something stands in the slot's places that is no identity",
    cause: 'another program uses the same handle or NV index',
    fix: ({ details }) =>
      `another program uses this place: choose another slot, or if nothing needs what it holds, empty it with: iotdm slot clear ${slotIn(details)} --force`,
  },
  'tpm.cannot-undo': {
    meaning: 'a change to a slot that was interrupted cannot be taken back; nothing was changed',
    cause: 'the old key was removed before the interruption, and a TPM does not give keys away',
    fix: ({ details }) =>
      `finish the change with: iotdm slot repair ${slotIn(details)}; or empty the slot with: iotdm slot clear ${slotIn(details)}`,
  },
  'tpm.parent-unsuitable': {
    meaning: 'the key at 0x81000001 is not an RSA 2048 storage root key',
    cause: 'another program, or an image made for ECC, put its own key there',
    fix: 'another program made this key; remove it with tpm2_evictcontrol if nothing uses it, and run the command again',
  },
  'tpm.no-ek-certificate': {
    meaning: 'the TPM holds no EK certificate',
    cause:
      'a firmware TPM, whose certificate its vendor serves on the web, or a chip that was never given one',
    fix: certificateElsewhere,
  },
  'tpm.ek-unsuitable': {
    meaning: 'the key at 0x81010001 is not an RSA 2048 endorsement key that DPS takes',
    cause: 'another program put an ECC key or a key of its own there',
    fix: 'another program put this key there; remove it with tpm2_evictcontrol if nothing uses it, and run the command again',
  },
  'auth.refused': {
    meaning: 'the service refused the credentials',
    cause:
      "a key that was rolled over, a connection string of another service, a policy without the right, or a machine's clock that is wrong",
    fix: ({ details }) =>
      typeof details['idScope'] === 'string'
        ? `check that ${details['idScope']} is the ID scope of the service where the device is enrolled, and this machine's clock, and run the same command again`
        : details['service'] === 'hub'
          ? 'the hub does not know the device, has it disabled or has another key for it, or a clock is wrong: compare with what the hub shows for it'
          : details['credentials'] === 'entra'
            ? 'give this identity the role "Device Provisioning Service Data Contributor" at the service, or pass a connection string with --dps-connection-string-file'
            : 'check that the connection string belongs to this service, and that its policy allows the operation',
  },
  'auth.clock': {
    meaning: 'the service refused the token, and the clock of this machine is not that of the service',
    cause: 'a clock that was never set, a dead battery, or no time server in the network of the line',
    fix: 'set the clock (Linux: timedatectl set-ntp true; Windows: w32tm /resync) and run the same command again',
  },
  'auth.no-token': {
    meaning: 'there is no connection string, and Microsoft Entra ID gave no token in its place',
    cause:
      'nobody is logged in here with the Azure CLI, the machine has no managed identity, or AZURE_CLIENT_ID and its companions are wrong',
    fix: ({ details }) =>
      `${typeof details['cliCloud'] === 'string' ? `choose the cloud with: az cloud set --name ${details['cliCloud']}, and ` : ''}log in with: az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; or pass a connection string with --dps-connection-string-file`,
  },
  'service.not-found': {
    meaning: 'the service does not have it',
    cause: 'the enrollment was deleted or never created, or the id is mistyped',
    fix: ({ details }) =>
      typeof details['idScope'] === 'string'
        ? `check that ${details['idScope']} is the ID scope of the service where the device is enrolled, and look for its enrollment with: iotdm enrollment list`
        : details['service'] === 'hub'
          ? 'create the device at its hub, or write the slot with the identity of one that is there'
          : 'look at what there is with: iotdm enrollment list',
  },
  'service.conflict': {
    meaning: 'the service has it already, in another form',
    cause: 'the enrollment exists, perhaps made by another tool',
    fix: ({ details }) => {
      const id = typeof details['registrationId'] === 'string' ? details['registrationId'] : 'ID';
      const other = details['otherRegistrationId'];
      if (typeof other === 'string') return takenFix(other);
      return details['otherKey'] === true
        ? `check the label and the TPM of the device, and what there is: iotdm enrollment show ${id}; if its TPM was replaced on purpose, delete the old enrollment with: iotdm enrollment delete ${id}`
        : `look at what there is with: iotdm enrollment show ${id}`;
    },
  },
  'service.changed-meanwhile': {
    meaning: 'the service holds a newer version than the one that was to be changed',
    cause: 'somebody else changed it between reading and writing',
    fix: 'somebody else changed it: look at it again and repeat the command',
  },
  'service.key-differs': {
    meaning: 'the enrollment is that of another TPM, and was left alone',
    cause: 'a mistyped registration id, or a device whose TPM or mainboard was replaced',
    fix: 'look at it with: iotdm enrollment show ID; if the TPM of this device was replaced, pass --force',
  },
  'service.not-tpm': {
    meaning: 'the enrollment is not one of a TPM, and was left alone',
    cause: 'a device that was enrolled with a certificate or a symmetric key by another tool',
    fix: 'change it with the tool that made it, such as: az iot dps enrollment update',
  },
  'service.invalid': {
    meaning: 'the service refused the request as invalid',
    cause: 'a value that it does not accept, which its message names',
    fix: 'mend what the service names and run the command again',
  },
  'service.unexpected-answer': {
    meaning: "the answer is not one of Azure's services",
    cause: 'a proxy or a login page answered in place of the service, or --dps names another host',
    fix: ({ details }) =>
      details['service'] === 'hub'
        ? "check that the slot's URI, or --hub-host, names an IoT Hub; -vv shows the requests"
        : typeof details['idScope'] === 'string'
          ? 'check that --device-host (or IOTDM_DEVICE_HOST) names the device endpoint of DPS; -vv shows the requests'
          : 'check that --dps names a Device Provisioning Service; -vv shows the requests',
  },
  'service.not-assigned': {
    meaning: 'DPS took the registration and did not assign the device to a hub',
    cause:
      'an enrollment that is disabled, no hub that is linked and reachable for DPS, or a custom allocation that failed',
    fix: ({ details }) => notAssignedFix(details),
  },
  'network.unreachable': {
    meaning: 'the host cannot be reached',
    cause: 'a mistyped name, no network, or a network that is left through a proxy only',
    fix: ({ details }) =>
      goingOn(details) ??
      'check the host name and the network, and whether it is left through a proxy only: --proxy URL, or HTTPS_PROXY',
  },
  'network.proxy': {
    meaning: 'the HTTPS proxy cannot be used; the service was not reached',
    cause: 'a wrong address, missing credentials, or a proxy that does not let this host through',
    fix: ({ details }) =>
      details['proxyStatus'] === 407
        ? 'set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT in the environment'
        : 'check --proxy (or HTTPS_PROXY); hosts that need no proxy belong in NO_PROXY',
  },
  'network.tls': {
    meaning: 'no secure connection could be made',
    cause:
      "a certificate authority that is not known here, such as the emulator's or an inspecting proxy's, or a wrong clock",
    fix: 'if this is the emulator or an inspecting proxy, give its certificate authority with --ca FILE',
  },
  'network.timeout': {
    meaning: 'the service did not answer in time',
    cause: 'a slow or broken network',
    fix: ({ details }) =>
      goingOn(details) ??
      (typeof details['deadlineSeconds'] === 'number'
        ? 'run the same command again, which registers anew; --deadline gives it longer; if it stays so, look at the linked hubs and the allocation of the enrollment in the portal'
        : 'check the network and run the same command again; --timeout gives it longer'),
  },
  'network.budget': {
    meaning: 'the time that was given for this device is used up; nothing is half done',
    cause: 'a slow chip or service, or less time than the steps need',
    fix: 'run the same command again, it takes up where it stopped; or give more time with --budget SECONDS',
  },
  'network.throttled': {
    meaning: 'the service asked to send less, longer than the retries lasted',
    cause: 'several tools or lines share the limit of one service',
    fix: ({ details }) => goingOn(details) ?? 'the service is busy: run the same command again in a minute',
  },
  'network.unavailable': {
    meaning: 'the service is not available, or the connection was cut',
    cause: 'trouble at the service, or a network that fails now and then',
    fix: ({ details }) => goingOn(details) ?? 'run the same command again later',
  },
  'partial.rows-failed': {
    meaning: 'the batch is finished, and some of its rows failed',
    cause: 'named for each row',
    fix: ({ details }) =>
      'journal' in details
        ? `run the same command again to try these rows once more, or mend them in the file and add --restart: ${details['mode'] === 'delete' ? 'what is gone already is skipped' : 'what is enrolled as the file says is left alone'}`
        : 'mend the rows named above and run the same command again: rows that are done are left alone',
  },
  'verify.slot': {
    meaning: 'the slot does not sign as the key that was to be written would',
    cause:
      'memory of the TPM that does not hold what is written to it, or another program that wrote meanwhile',
    fix: 'do not ship this device: clear the slot and write it again, and replace the TPM if it fails twice',
  },
  'verify.identity-key': {
    meaning: 'the key that DPS sent for this TPM cannot be used; nothing was changed',
    cause:
      'it was made for another endorsement key or storage root key, or was damaged or exchanged on its way',
    fix: 'compare iotdm ek read on the device with iotdm enrollment show ID, check that nobody else registers with this id, and run the same command again',
  },
  'verify.ek': {
    meaning: 'the TPM has not proved to be genuine',
    cause: 'no certificate, one of an authority that is not trusted here, or one of another chip',
    fix: ({ details }) =>
      verdictFixes[String(details['verdict'])] ??
      'do not ship this device: its TPM has not proved to be genuine',
  },
  'verify.rows': {
    meaning: 'EK certificates in the input are not verified; nothing was sent',
    cause:
      'the certificates of a vendor that is not trusted here, or certificates that are damaged, forged, expired or missing',
    fix: 'nothing was sent: give all certificates of the TPM vendor, root and intermediates, with --roots, and ask who delivered the rows that are named; --verify warn lets them pass',
  },
  'verify.ek-certificate': {
    meaning: 'the EK certificate does not verify, or does not belong to this chip',
    cause: 'a damaged certificate, or one of another chip',
    fix: 'do not ship this device as genuine: the certificate and the chip do not belong together, or it was damaged',
  },
  'verify.manifest': {
    meaning: 'the manifest is not what its own chain of hashes says',
    cause: 'a line that was changed, removed or added by hand',
    fix: 'restore the manifest from a copy: it was changed after it was written',
  },
  'verify.identity-conflict': {
    meaning: 'one chip was recorded with two serial numbers, or one serial number with two chips',
    cause: 'a mistyped or exchanged label',
    fix: 'check the label of the device: one chip and one serial number belong together',
  },
  'verify.bundle': {
    meaning: 'the bundle is not what its list of checksums says; nothing was sent',
    cause: 'a copy that was cut short, or somebody who changed it, added to it or took from it on the way',
    fix: 'copy the bundle again from where it was made; if it differs there too, export it again from the manifest',
  },
  'verify.signature': {
    meaning: 'the station whose key was given has not signed this; nothing was sent',
    cause:
      'a bundle of another station, one that was made without --sign-key, or one that was changed on the way',
    fix: 'ask the station for its bundle, made with --sign-key, and for its public key: openssl pkey -in station.key -pubout -out station.pub',
  },
  'interrupted.signal': {
    meaning: 'the command was stopped by the user or the system',
    cause: 'Ctrl-C or SIGTERM',
    fix: ({ details }) =>
      typeof details['journal'] === 'string'
        ? `run the same command again: it goes on where it stopped, by ${details['journal']}`
        : 'run the same command again to finish',
  },
};

/** Of a device id or a key that another enrollment has. */
export function takenFix(other: string): string {
  return `look at the other one with: iotdm enrollment show ${other}; if it is of no use any more, as after an exchange of the TPM, delete it with: iotdm enrollment delete ${other}`;
}

function stateDirectoryOption(command: string): string {
  return /^iotdm (?:emulator|simulator) /.test(command)
    ? '--dir DIR'
    : '--state-dir DIR (or IOTDM_STATE_DIR)';
}

function slotIn(details: Readonly<Record<string, unknown>>): string {
  return typeof details['slot'] === 'number' ? String(details['slot']) : 'N';
}

/** Of a batch that had got somewhere before the network failed. */
function goingOn(details: Readonly<Record<string, unknown>>): string | undefined {
  return typeof details['journal'] === 'string'
    ? `run the same command again later: it goes on where it stopped, by ${details['journal']}`
    : undefined;
}
