/** Finds rows that would enroll one device twice, or two devices as one. Of each row only hashes are kept. */
import type { Enrollment } from '../dps/enrollment.ts';
import { digestOfKey, digestOfRegistrationId } from '../tpm/endorsement-key.ts';
import { quoted } from './enrollment-columns.ts';
import type { DeletionRow, RowFault, SoundRow } from './enrollment-rows.ts';
import { LineNumbers, SeenTexts, type SeenPlace } from './first-seen.ts';

export class DuplicateSearch {
  readonly #names: readonly string[];
  readonly #lines = new LineNumbers();
  /** By the key's digest; the value is twice the line's number, plus one where the row's id follows from the key. */
  readonly #keys = new SeenTexts();
  /** Registration ids that do not follow from the row's key: most files have none, and need no room for them. */
  readonly #ids = new SeenTexts();
  readonly #devices = new SeenTexts();
  readonly #serials = new SeenTexts();

  /** @param names of the files */
  constructor(names: readonly string[]) {
    this.#names = names;
  }

  /** What the row has in common with an earlier one. Rows come in the order of the files. */
  look(file: number, { row, endorsementKey, hasOwnId }: SoundRow): readonly RowFault[] {
    const { enrollment, serialNumber, line } = row;
    const { registrationId } = enrollment;
    const digest = digestOfKey(endorsementKey);
    const id = registrationId.toLowerCase();
    const digestOfId = hasOwnId ? digestOfRegistrationId(id) : digest;
    const number = this.#lines.of({ file, line });
    const isDerived = digestOfId === digest;
    const faults: RowFault[] = [];
    const report = (field: string, what: string, earlier: number) => {
      faults.push({
        file: this.#names[file] ?? '',
        line,
        column: null,
        field,
        registrationId,
        code: 'input.invalid',
        message: `${what} stands in ${this.#nameOf(this.#lines.placeOf(earlier))} already`,
      });
    };
    const sameKey = this.#keys.see(digest, number * 2 + (isDerived ? 1 : 0));
    const sameId = isDerived
      ? (derivedLine(sameKey) ?? this.#ids.find(id))
      : (this.#ids.see(id, number) ?? this.#derivedFrom(digestOfId));
    const sameDevice = this.#seeDevice(enrollment, isDerived, number);
    const sameSerial = serialNumber === undefined ? undefined : this.#serials.see(serialNumber, number);
    if (sameId !== undefined) report('registrationId', `the registration id ${registrationId}`, sameId);
    else if (sameKey !== undefined) {
      report(
        'endorsementKey',
        'the same endorsement key under another registration id',
        Math.floor(sameKey / 2),
      );
    } else if (sameDevice !== undefined) {
      const deviceId = enrollment.deviceId ?? registrationId;
      report('deviceId', `the device id ${quoted(deviceId)}, with another endorsement key,`, sameDevice);
    }
    if (sameSerial !== undefined && sameId === undefined) {
      report('serialNumber', `the serial number ${quoted(serialNumber ?? '')}`, sameSerial);
    }
    return faults;
  }

  /** The same of a row that is to be deleted, of which only the registration id must not stand twice. */
  lookById(file: number, { line, enrollment: { registrationId } }: DeletionRow): readonly RowFault[] {
    const earlier = this.#ids.see(registrationId, this.#lines.of({ file, line }));
    if (earlier === undefined) return [];
    const at = this.#nameOf(this.#lines.placeOf(earlier));
    const message = `the registration id ${registrationId} stands in ${at} already`;
    const name = this.#names[file] ?? '';
    const field = 'registrationId';
    return [{ file: name, line, column: null, field, registrationId, code: 'input.invalid', message }];
  }

  /** An earlier row that may bring a device of the same id into the same hub; nothing where the key says the id. */
  #seeDevice(enrollment: Enrollment, isDerived: boolean, number: number): number | undefined {
    const { deviceId, registrationId, iotHubHostName, iotHubs = [] } = enrollment;
    if (deviceId === undefined && isDerived) return undefined;
    const name = deviceId ?? registrationId;
    // A line break is in no id and no host: behind it stands a hub, nothing for some hub, or a mark for any.
    const inSome = `${name}\n`;
    const inAny = `${name}\n*`;
    const hubs = iotHubHostName === undefined ? iotHubs : [iotHubHostName, ...iotHubs];
    if (hubs.length === 0) return this.#devices.find(inSome) ?? this.#devices.see(inAny, number);
    let found = this.#devices.find(inAny);
    for (const hub of new Set(hubs.map((host) => host.toLowerCase()))) {
      const earlier = this.#devices.see(`${name}\n${hub}`, number);
      found ??= earlier;
    }
    this.#devices.see(inSome, number);
    return found;
  }

  /** The row whose id follows from the key with this digest. */
  #derivedFrom(digest: string | undefined): number | undefined {
    return digest === undefined ? undefined : derivedLine(this.#keys.find(digest));
  }

  #nameOf({ file, line }: SeenPlace): string {
    return `${this.#names[file] ?? ''}:${line}`;
  }
}

function derivedLine(value: number | undefined): number | undefined {
  return value === undefined || value % 2 === 0 ? undefined : Math.floor(value / 2);
}
