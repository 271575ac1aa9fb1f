import { Option } from 'commander';
import type { Enrollment, StoredEnrollment } from '../../src/dps/enrollment.ts';
import { IotdmError } from '../../src/errors.ts';
import { enrollmentTable, shownJson } from '../shared/enrollment-table.ts';
import {
  enrollmentOfOptions,
  enrollmentValueOptions,
  PLACEHOLDER_KEY,
  type EnrollmentValueOptions,
} from '../shared/enrollment-values.ts';
import {
  indexNotes,
  notCompared,
  prepareIndex,
  withIdentityIndex,
  type Compared,
} from '../shared/identity-index.ts';
import type { Verb } from '../shared/verb.ts';

export interface EnrollmentUpdateOptions extends EnrollmentValueOptions {
  readonly iotEdge?: string;
  readonly endorsementKey?: string;
  readonly force?: boolean;
  readonly ifMatch?: string;
}

export interface EnrollmentUpdateResult extends Compared {
  readonly changed: boolean;
  readonly dryRun?: true;
  readonly enrollment: StoredEnrollment | Enrollment;
}

export const enrollmentUpdate: Verb<[string], EnrollmentUpdateOptions, EnrollmentUpdateResult> = {
  name: 'update',
  arguments: [['<registration-id>', 'of the device']],
  summary: 'change the enrollment of a device',
  description:
    'Changes what is named and leaves everything else as the service has it. Tags and desired properties are merged: ' +
    'null removes one. A webhook goes when the allocation policy is no longer custom. Nothing is written over a change ' +
    'that somebody else makes at the same time. The endorsement ' +
    'key is the identity of the TPM: another one is refused without --force, as the enrollment would then be another ' +
    "device's. A device id or a key that another enrollment has is refused in any case.",
  notes: indexNotes,
  examples: [
    'iotdm enrollment update press-17 --provisioning-status disabled',
    'iotdm enrollment update press-17 --tag site=north --tag line.old=null --desired interval=30',
    'iotdm enrollment update press-17 --tag site=north --dry-run',
  ],
  seeAlso: ['iotdm enrollment show', 'iotdm enrollment import --mode update'],
  settings: ['service', 'index', 'timeout', 'dry-run'],
  options: [
    ...enrollmentValueOptions(),
    new Option('--iot-edge <boolean>', 'true or false: whether the device runs IoT Edge'),
    new Option('--if-match <etag>', 'only if it is still the one with this ETag'),
    new Option(
      '--endorsement-key <base64>',
      'of the TPM that the enrollment is for; another one with --force',
    ),
    new Option('--force', 'hand the enrollment over to the TPM with this --endorsement-key'),
  ],
  async run(context, [typed], { force = false, ifMatch, endorsementKey, ...named }) {
    const registrationId = typed.toLowerCase();
    if (force && endorsementKey === undefined) {
      throw new IotdmError('usage.invalid', '--force needs the new --endorsement-key');
    }
    if (endorsementKey === undefined && Object.keys(named).length === 0) {
      throw new IotdmError('usage.invalid', 'nothing to change is named');
    }
    const key = endorsementKey ?? PLACEHOLDER_KEY;
    const values = await enrollmentOfOptions(context, { endorsementKey: key, ...named }, true);
    const [{ planUpdate }, { givesIdentity }, service] = await Promise.all([
      import('../../src/station/enrollment-update.ts'),
      import('../../src/station/identity-facts.ts'),
      context.openService(),
    ]);
    const planned = await planUpdate(service, registrationId, {
      values,
      namesKey: endorsementKey !== undefined,
      replaceKey: force,
      ...(ifMatch === undefined ? {} : { ifMatch }),
    });
    const { stored, enrollment, unchanged, expectedId } = planned;
    if (expectedId !== undefined) {
      context.console.warn(
        `${registrationId} follows from the old endorsement key: the new TPM asks for ${expectedId} unless it is told`,
      );
    }
    if (unchanged) return { changed: false, enrollment: stored, identityCompared: null };
    const { dryRun } = context.settings;
    const replace = () => service.replace(enrollment, stored.etag);
    if (!givesIdentity({ enrollment, stored })) {
      return dryRun
        ? { changed: false, dryRun: true, enrollment, identityCompared: null }
        : { changed: true, enrollment: await replace(), identityCompared: null };
    }
    return withIdentityIndex(context, service, async (index) => {
      const identityCompared = context.settings.index;
      if (index !== undefined) await prepareIndex(context, index, service.host);
      if (dryRun) {
        await index?.refuse({ enrollment, stored });
        return { changed: false, dryRun: true, enrollment, identityCompared };
      }
      const written = await (index?.guard('update', { enrollment, stored }, replace) ?? replace());
      return { changed: true, enrollment: written, identityCompared };
    });
  },
  describe({ changed, dryRun, enrollment, identityCompared }, { console: { style } }) {
    const remark = identityCompared === false ? notCompared : '';
    if (dryRun === true) return `Would write:\n${shownJson(enrollment)}\n${remark}`;
    const text = enrollmentTable({ ...enrollment, etag: enrollment.etag ?? '' });
    return `${changed ? `${style.green('✔')} Changed.` : 'It is like this already; nothing was written.'}\n${text}${remark}`;
  },
};
