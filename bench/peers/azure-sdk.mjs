/*
 * Azure's own client for operators, as its samples use it: reads a CSV of registrationId, endorsementKey and deviceId
 * and enrolls every row, one call after the other.
 *
 *   node azure-sdk.mjs loop|bulk ROWS CONNECTION-STRING-FILE CA-FILE ROWS.csv
 *
 * `loop` is createOrUpdateIndividualEnrollment for each row; `bulk` is runBulkEnrollmentOperation for each ten.
 */
import { createReadStream, readFileSync } from 'node:fs';
import { Agent, request as httpsRequest } from 'node:https';
import httpBase from 'azure-iot-http-base';
import common from 'azure-iot-common';
import provisioningService from 'azure-iot-provisioning-service';
import { parse } from 'csv-parse';

const [mode, rows, connectionStringFile, caFile, file] = process.argv.slice(2);
const agent = new Agent({ keepAlive: true, ca: readFileSync(caFile, 'utf8') });

/** The client takes `127.0.0.1:PORT` for a DNS name, and knows no certificate authority but Node's. */
class PortedHttp extends httpBase.Http {
  buildRequest(method, path, headers, host, options, done) {
    const [hostname, port] = host.split(':');
    const request = (given, listener) => httpsRequest({ ...given, agent }, listener);
    return super.buildRequest(
      method,
      path,
      headers,
      hostname,
      { port: Number(port), request },
      done ?? options,
    );
  }
}

const { HostName, SharedAccessKeyName, SharedAccessKey } = common.ConnectionString.parse(
  readFileSync(connectionStringFile, 'utf8'),
);
const expiry = Math.ceil(Date.now() / 1000) + 3600;
const config = {
  host: HostName,
  sharedAccessSignature: common.SharedAccessSignature.create(
    HostName,
    SharedAccessKeyName,
    SharedAccessKey,
    expiry,
  ),
};
const rest = new httpBase.RestApiClient(config, 'bench', new PortedHttp());
const client = new provisioningService.ProvisioningServiceClient(config, rest);

let left = Number(rows);
let ten = [];
for await (const { registrationId, endorsementKey, deviceId } of createReadStream(file).pipe(
  parse({ columns: true }),
)) {
  if (left === 0) break;
  left -= 1;
  const enrollment = { registrationId, deviceId, attestation: { type: 'tpm', tpm: { endorsementKey } } };
  if (mode === 'loop') await client.createOrUpdateIndividualEnrollment(enrollment);
  else {
    ten.push(enrollment);
    if (ten.length === 10 || left === 0) await send();
  }
}
if (ten.length > 0) await send();
agent.destroy();
process.exit(0);

/** Without a callback it would never settle. */
async function send() {
  const enrollments = ten;
  ten = [];
  await new Promise((resolve, reject) => {
    client.runBulkEnrollmentOperation({ mode: 'create', enrollments }, (error, result) => {
      if (error) reject(error);
      else if (!result.isSuccessful) reject(new Error(JSON.stringify(result.errors[0])));
      else resolve();
    });
  });
}
