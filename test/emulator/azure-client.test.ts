/** Azure's own client for operators as a witness: what it sends is understood, what is answered it understands. */

import assert from 'node:assert/strict';
import { request as httpsRequest, type Agent } from 'node:https';
import { after, before, describe, it } from 'node:test';
import httpBase, { type Http } from 'azure-iot-http-base';
import common from 'azure-iot-common';
import provisioningService, { type ProvisioningServiceClient } from 'azure-iot-provisioning-service';
import { enrollment, remove, startRig, temporaryDirectory, type AnswerBody, type Rig } from './rig.ts';

type BuildRequest = Parameters<Http['buildRequest']>;

/** Azure's Http takes `127.0.0.1:PORT` for a DNS name: this one splits it, and trusts the emulator's authority. */
class PortedHttp extends httpBase.Http {
  readonly #agent: Agent;

  constructor(agent: Agent) {
    super();
    this.#agent = agent;
  }

  override buildRequest(
    method: BuildRequest[0],
    path: BuildRequest[1],
    headers: BuildRequest[2],
    host: BuildRequest[3],
    options: BuildRequest[4],
    done?: BuildRequest[5],
  ): ReturnType<Http['buildRequest']> {
    const [hostname, port] = (host as string).split(':');
    return super.buildRequest(
      method,
      path,
      headers,
      hostname ?? '',
      {
        port: Number(port),
        request: (given: object, listener: never) => httpsRequest({ ...given, agent: this.#agent }, listener),
      } as unknown as BuildRequest[4],
      (done ?? options) as BuildRequest[5],
    );
  }
}

describe("Azure's own client", () => {
  let dir: string;
  let rig: Rig;
  let client: ProvisioningServiceClient;

  before(async () => {
    dir = await temporaryDirectory();
    rig = await startRig({ dir });
    const { HostName, SharedAccessKeyName, SharedAccessKey } = common.ConnectionString.parse(
      rig.connectionString,
    );
    assert.ok(HostName && SharedAccessKeyName && SharedAccessKey);
    const config = {
      host: HostName,
      sharedAccessSignature: common.SharedAccessSignature.create(
        HostName,
        SharedAccessKeyName,
        SharedAccessKey,
        Date.now(),
      ),
    };
    const rest = new httpBase.RestApiClient(config, 'witness', new PortedHttp(rig.agent));
    client = new provisioningService.ProvisioningServiceClient(config, rest);
  });

  after(async () => {
    await rig.close();
    await remove(dir);
  });

  /** Its promises lose errors: with a callback it says everything. */
  const asked = async (
    ask: (done: (error: unknown, result?: unknown) => void) => void,
  ): Promise<AnswerBody> =>
    new Promise((resolve, reject) => {
      ask((error, result) => {
        if (error instanceof Error) reject(error);
        else resolve(result as AnswerBody);
      });
    });
  const put = (body: object): Promise<AnswerBody> =>
    asked((done) => {
      client.createOrUpdateIndividualEnrollment(body as never, done);
    });

  it('creates, updates, reads and deletes an enrollment', async () => {
    const created = await put(enrollment('witness-1'));
    await assert.rejects(put(enrollment('witness-1')), { name: 'DeviceAlreadyExistsError' });
    const updated = await put({ ...created, deviceId: 'device' });
    assert.equal(updated.deviceId, 'device');
    await assert.rejects(put(created));
    const read = await asked((done) => {
      client.getIndividualEnrollment('witness-1', done);
    });
    assert.deepEqual(read, updated);
    const mechanism = await asked((done) => {
      client.getIndividualEnrollmentAttestationMechanism('witness-1', done);
    });
    assert.deepEqual(mechanism, updated.attestation);
    await asked((done) => {
      client.deleteIndividualEnrollment(updated as never, done);
    });
    await assert.rejects(
      asked((done) => {
        client.getIndividualEnrollment('witness-1', done);
      }),
    );
  });

  it('runs a bulk operation and lists what it made, page by page', async () => {
    const enrollments = Array.from({ length: 5 }, (_, index) => enrollment(`witness-${index}`));
    const result = await asked((done) => {
      client.runBulkEnrollmentOperation({ mode: 'create', enrollments } as never, done);
    });
    assert.equal(result.isSuccessful, true);
    const query = client.createIndividualEnrollmentQuery({ query: 'SELECT * FROM enrollments' }, 2);
    const pages: unknown[] = [];
    while (query.hasMoreResults) {
      const page = await asked((done) => {
        query.next(done);
      });
      pages.push((page as unknown as readonly AnswerBody[]).map((item) => item.registrationId));
    }
    assert.deepEqual(pages, [['witness-0', 'witness-1'], ['witness-2', 'witness-3'], ['witness-4']]);
  });
});
