/**
 * TPM 2.0 response codes in plain words, by name. Where there is no fix of its own, that of the error code holds which
 * iotdm gives to such a response.
 *
 * Source of the meanings: TPM 2.0 Library, Part 2, section 6.6.3 (TPM_RC values).
 */

export interface TpmEntry {
  readonly meaning: string;
  readonly cause: string;
  readonly fix?: string;
}

const trace =
  'run the iotdm command again with -vv to see what is sent; if iotdm sends it, please report it with that output';
const again = 'run the same command again';
const look =
  'look at what the TPM holds with: iotdm slot list --all; and at the TPM itself with: iotdm tpm check';
const firmware = 'update the firmware of the TPM; iotdm tpm check names what it lacks';
const malformed = 'a program that builds TPM commands wrongly, or a connection that damages them';
const policy = 'a policy session that was not made for this object, or one of its steps is missing';
const unloadedHandle =
  'a key or session that was flushed meanwhile, or was never loaded over this connection';
const unloadedFix =
  'run the same command again; with several programs on one TPM use --tpm device:/dev/tpmrm0, which keeps them apart';
const notInUse = 'the specification reserves this code and gives it no use';

/** One of the handles or sessions of a command refers to something that is not loaded. */
function reference(what: string, number: number): TpmEntry {
  return {
    meaning: `${what} number ${number} of the command refers to something that is not loaded`,
    cause: unloadedHandle,
    fix: unloadedFix,
  };
}

export const tpmEntries: Readonly<Record<string, TpmEntry>> = {
  TPM_RC_SUCCESS: {
    meaning: 'the command succeeded',
    cause: 'there is no fault',
    fix: 'nothing is to be done',
  },
  TPM_RC_BAD_TAG: {
    meaning: 'the chip does not know the tag of a TPM 2.0 command',
    cause: 'a TPM 1.2, or a TPM 2.0 that was sent something else than a command',
  },

  TPM_RC_ASYMMETRIC: {
    meaning: 'the asymmetric algorithm is not supported or not right here',
    cause: 'a TPM without RSA 2048, or a key template for another TPM',
    fix: firmware,
  },
  TPM_RC_ATTRIBUTES: {
    meaning: 'the attributes contradict each other or do not allow this use',
    cause:
      'the key at the handle is none for this purpose (a signing key where a storage key is wanted), or the NV index was defined with other attributes',
    fix: look,
  },
  TPM_RC_HASH: {
    meaning: 'the hash algorithm is not supported or not right here',
    cause: 'a TPM without SHA-256, or a key made with another hash',
    fix: firmware,
  },
  TPM_RC_VALUE: {
    meaning: 'a value is out of range or not right here',
    cause:
      'for a handle: nothing of this kind stands there; for a parameter: a key size or algorithm that this TPM does not take',
    fix: look,
  },
  TPM_RC_HIERARCHY: {
    meaning: 'the hierarchy is switched off, or not the right one for this',
    cause: 'the firmware or the operating system disabled the owner or endorsement hierarchy since the start',
  },
  TPM_RC_KEY_SIZE: {
    meaning: 'the key size is not supported',
    cause: 'a TPM without RSA 2048 or AES 128, or a template for a larger key',
    fix: firmware,
  },
  TPM_RC_MGF: {
    meaning: 'the mask generation function is not supported',
    cause: 'a padding scheme that this TPM does not have',
    fix: firmware,
  },
  TPM_RC_MODE: {
    meaning: 'the mode of operation is not supported',
    cause: 'a TPM without AES in CFB mode, which storage keys need',
    fix: firmware,
  },
  TPM_RC_TYPE: {
    meaning: 'the type of the value does not fit its use',
    cause: 'the key at the handle is of another type than expected, such as ECC where RSA is wanted',
    fix: look,
  },
  TPM_RC_HANDLE: {
    meaning: 'the handle names nothing, or nothing that fits here',
    cause:
      'for handle 1: nothing stands at the persistent handle or NV index, so the slot or key was never written, or the TPM was cleared',
    fix: look,
  },
  TPM_RC_KDF: {
    meaning: 'the key derivation function is not supported or not right here',
    cause: 'a key template with a scheme that this TPM does not have',
    fix: firmware,
  },
  TPM_RC_RANGE: {
    meaning: 'a value lies outside of the allowed range',
    cause:
      'a persistent handle outside of the range of its hierarchy, such as an owner key at 0x81800000 or above',
    fix: trace,
  },
  TPM_RC_AUTH_FAIL: {
    meaning: 'the authorization value is wrong, and the TPM has counted a failed attempt towards its lockout',
    cause:
      'an authorization value is set for the hierarchy or key, and another one was given; stop guessing before the TPM locks',
  },
  TPM_RC_NONCE: {
    meaning: 'a nonce has the wrong size or value',
    cause: 'two programs that use one session, or answers that were mixed up',
    fix: 'run the same command again; with several programs on one TPM use --tpm device:/dev/tpmrm0, which keeps them apart',
  },
  TPM_RC_PP: {
    meaning: 'the command wants somebody present at the device (physical presence)',
    cause: 'the firmware reserves this for its own menu',
    fix: "do it in the device's firmware settings",
  },
  TPM_RC_SCHEME: {
    meaning: 'the scheme is not supported or does not fit the key',
    cause: 'the key at the handle is none for HMAC with SHA-256, so it is no slot key',
    fix: look,
  },
  TPM_RC_SIZE: {
    meaning: 'a structure or value has the wrong size',
    cause:
      'a key or data longer than this TPM takes, or an authorization value longer than the hash of its hierarchy',
    fix: trace,
  },
  TPM_RC_SYMMETRIC: {
    meaning: 'the symmetric algorithm or its key size is not supported or not right here',
    cause: 'a TPM without AES 128 in CFB mode',
    fix: firmware,
  },
  TPM_RC_TAG: { meaning: 'a structure has the wrong tag', cause: malformed, fix: trace },
  TPM_RC_SELECTOR: {
    meaning: 'a selector names a variant that does not exist',
    cause: 'an algorithm that this TPM does not have, or a malformed command',
    fix: trace,
  },
  TPM_RC_INSUFFICIENT: {
    meaning: 'the command ends before its parameters do',
    cause: malformed,
    fix: trace,
  },
  TPM_RC_SIGNATURE: {
    meaning: 'the signature is not valid',
    cause: 'signed data that was changed, or another key than the one that signed',
    fix: trace,
  },
  TPM_RC_KEY: {
    meaning: 'the parts of the key do not fit the selected use',
    cause: 'a key made by another program with fields that this command does not take',
    fix: look,
  },
  TPM_RC_POLICY_FAIL: { meaning: 'a policy check failed', cause: policy },
  TPM_RC_INTEGRITY: {
    meaning: 'the integrity check of a wrapped key or credential failed',
    cause:
      'a blob that is meant for another TPM or another parent key, so an enrollment whose endorsement key is not that of this chip, or a storage root key that changed; else a damaged file',
    fix: 'compare iotdm ek read with iotdm enrollment show ID: the endorsement key must be the same',
  },
  TPM_RC_TICKET: {
    meaning: 'the ticket is not valid',
    cause: 'a ticket from before the TPM was restarted or cleared',
    fix: again,
  },
  TPM_RC_RESERVED_BITS: { meaning: 'reserved bits are set', cause: malformed, fix: trace },
  TPM_RC_BAD_AUTH: {
    meaning: 'the authorization value is wrong; it does not count towards a lockout',
    cause: 'an authorization value is set for the hierarchy, and none or another one was given',
  },
  TPM_RC_EXPIRED: {
    meaning: 'the policy has expired',
    cause: 'a policy session that was kept too long',
    fix: again,
  },
  TPM_RC_POLICY_CC: {
    meaning: 'the policy is for another command',
    cause: policy,
    fix: trace,
  },
  TPM_RC_BINDING: {
    meaning: 'the public and the private part do not belong together',
    cause: 'a key that was put together from two others, or a damaged file',
    fix: 'write the slot again with: iotdm slot write N --overwrite --connection-string-file FILE',
  },
  TPM_RC_CURVE: {
    meaning: 'the elliptic curve is not supported',
    cause: 'an ECC key template for another TPM',
    fix: firmware,
  },
  TPM_RC_ECC_POINT: {
    meaning: 'the point is not on the curve',
    cause: 'a damaged ECC key; iotdm uses RSA only',
    fix: trace,
  },

  TPM_RC_INITIALIZE: {
    meaning: 'the TPM waits for TPM2_Startup, or was started a second time',
    cause: 'a simulator without firmware, or a board whose firmware ignores the TPM',
  },
  TPM_RC_FAILURE: {
    meaning: 'the TPM has found a fault in itself and refuses to work',
    cause: 'a broken or interrupted firmware update, or a defect',
  },
  TPM_RC_SEQUENCE: {
    meaning: 'a sequence handle is used improperly',
    cause: 'two programs that use the same handle',
    fix: unloadedFix,
  },
  TPM_RC_PRIVATE: { meaning: 'not in use', cause: notInUse, fix: trace },
  TPM_RC_HMAC: { meaning: 'not in use', cause: notInUse, fix: trace },
  TPM_RC_DISABLED: {
    meaning: 'the command is disabled',
    cause: 'TPM2_Clear was forbidden with TPM2_ClearControl, or an administrator switched the command off',
    fix: 'clear the TPM in the firmware settings, or allow it with the platform authorization: tpm2_clearcontrol -C p c',
  },
  TPM_RC_EXCLUSIVE: {
    meaning: 'an audit sequence demands to be alone, and another command came between',
    cause: 'another program uses the TPM at the same time',
    fix: again,
  },
  TPM_RC_AUTH_TYPE: {
    meaning: 'this kind of authorization is not right for the handle',
    cause:
      'a key that wants a policy was given a password, or the other way round; it is none that iotdm made',
    fix: look,
  },
  TPM_RC_AUTH_MISSING: {
    meaning: 'the command lacks an authorization for a handle that wants one',
    cause: malformed,
    fix: trace,
  },
  TPM_RC_POLICY: {
    meaning: 'a policy failed in its arithmetic, or the authorization policy is not valid',
    cause: policy,
    fix: trace,
  },
  TPM_RC_PCR: {
    meaning: 'a PCR does not have the value that is demanded',
    cause: 'other firmware or another boot chain than the key is sealed to',
    fix: 'iotdm binds nothing to PCRs: whoever made this key must make it again for the present firmware',
  },
  TPM_RC_PCR_CHANGED: {
    meaning: 'PCRs changed since they were checked',
    cause: 'the operating system measured something meanwhile',
    fix: again,
  },
  TPM_RC_UPGRADE: {
    meaning: 'the TPM is in the middle of a firmware upgrade',
    cause: 'an upgrade that was interrupted',
  },
  TPM_RC_TOO_MANY_CONTEXTS: {
    meaning: 'the counter of saved contexts is at its maximum',
    cause: 'a TPM that was not restarted for very long',
    fix: 'restart the device',
  },
  TPM_RC_AUTH_UNAVAILABLE: {
    meaning: 'the object cannot be authorized in this way',
    cause: 'a key or NV index that is used by policy only; it is none that iotdm made',
    fix: look,
  },
  TPM_RC_REBOOT: {
    meaning: 'the TPM must be reset and started before it goes on',
    cause: 'a firmware upgrade, or clearing that was not finished',
  },
  TPM_RC_UNBALANCED: {
    meaning: 'the hash is weaker than the symmetric key that it protects',
    cause: 'a key template of another program',
    fix: trace,
  },
  TPM_RC_COMMAND_SIZE: {
    meaning: 'the size in the header of the command is not the size of the command',
    cause: malformed,
    fix: trace,
  },
  TPM_RC_COMMAND_CODE: {
    meaning: 'the TPM, or the resource manager before it, does not have this command',
    cause: 'old firmware, a reduced TPM, or a command that an operating system keeps to itself',
  },
  TPM_RC_AUTHSIZE: {
    meaning: 'the size of the authorization area is wrong',
    cause: malformed,
    fix: trace,
  },
  TPM_RC_AUTH_CONTEXT: {
    meaning: 'the command takes no authorization session',
    cause: malformed,
    fix: trace,
  },
  TPM_RC_NV_RANGE: {
    meaning: 'reading or writing goes past the end of the NV index',
    cause: 'an NV index that another program defined with another size',
    fix: 'look at it with: tpm2_nvreadpublic; if nothing uses it: iotdm slot clear N, and write the slot again',
  },
  TPM_RC_NV_SIZE: {
    meaning: 'the NV index would be larger than the TPM allows',
    cause: 'a host name and device id that are longer than this TPM stores in one index',
    fix: 'use a shorter device id; the largest index is TPM2_PT_NV_INDEX_MAX in: tpm2_getcap properties-fixed',
  },
  TPM_RC_NV_LOCKED: {
    meaning: 'the NV index is locked against reading or writing',
    cause: 'a program locked it until the next start of the TPM, or for good',
    fix: 'restart the device and try again; look at it with: tpm2_nvreadpublic',
  },
  TPM_RC_NV_AUTHORIZATION: {
    meaning: 'the attributes of the NV index do not allow this access',
    cause: 'an NV index that another program defined, to be read or written by itself only',
    fix: 'look at its attributes with: tpm2_nvreadpublic',
  },
  TPM_RC_NV_UNINITIALIZED: {
    meaning: 'the NV index is defined and was never written',
    cause: 'a tool that was interrupted between defining and writing it',
    fix: 'write the slot again with: iotdm slot write N --overwrite --connection-string-file FILE',
  },
  TPM_RC_NV_SPACE: {
    meaning: 'the persistent memory of the TPM is full',
    cause: 'real chips have room for about seven persistent keys, and other programs keep theirs there too',
  },
  TPM_RC_NV_DEFINED: {
    meaning: 'something already stands at the persistent handle or NV index',
    cause: 'a key or identity that was written before, by iotdm, Limpet or another program',
  },
  TPM_RC_BAD_CONTEXT: {
    meaning: 'the saved context is not valid',
    cause: 'a context that was saved before the TPM was restarted or cleared',
    fix: again,
  },
  TPM_RC_CPHASH: {
    meaning: 'the policy is bound to other parameters',
    cause: policy,
    fix: trace,
  },
  TPM_RC_PARENT: {
    meaning: 'the handle names no key that can be a parent',
    cause: 'the key at 0x81000001 is not a storage root key',
    fix: 'look at it with: iotdm srk read; another program made it, and tpm2_evictcontrol removes it if nothing uses it',
  },
  TPM_RC_NEEDS_TEST: {
    meaning: 'a function of the TPM must be tested before it is used',
    cause: 'a TPM that has just been powered on',
    fix: 'test it with: tpm2_selftest --fulltest; then run the same command again',
  },
  TPM_RC_NO_RESULT: {
    meaning: 'the TPM could not carry out the command, and does not say why',
    cause: 'parameters that fit their format and make no sense together, such as a broken key',
    fix: trace,
  },
  TPM_RC_SENSITIVE: {
    meaning: 'the secret part of the key cannot be read after decryption',
    cause: 'a blob that is meant for another TPM, or a damaged one',
    fix: 'compare iotdm ek read with iotdm enrollment show ID: the endorsement key must be the same',
  },

  TPM_RC_CONTEXT_GAP: {
    meaning: 'an old session must be loaded or flushed before another one can be saved',
    cause: 'a program that keeps sessions for long',
  },
  TPM_RC_OBJECT_MEMORY: {
    meaning: 'the TPM has no working memory for another key; real chips hold three at once',
    cause: 'a program that did not flush what it loaded, on a TPM without a resource manager',
  },
  TPM_RC_SESSION_MEMORY: {
    meaning: 'the TPM has no working memory for another session',
    cause: 'a program that did not end its sessions, on a TPM without a resource manager',
    fix: 'use --tpm device:/dev/tpmrm0, or flush them with: tpm2_flushcontext -l; tpm2_flushcontext -s',
  },
  TPM_RC_MEMORY: {
    meaning: 'the TPM has no working memory left',
    cause: 'programs that did not flush keys or end sessions, on a TPM without a resource manager',
  },
  TPM_RC_SESSION_HANDLES: {
    meaning: 'the TPM has no session handle left',
    cause: 'sessions that were saved and never ended',
    fix: 'use --tpm device:/dev/tpmrm0, or flush them with: tpm2_flushcontext -l; tpm2_flushcontext -s',
  },
  TPM_RC_OBJECT_HANDLES: {
    meaning: 'the TPM has no handle left for another key',
    cause: 'a program that did not flush what it loaded, on a TPM without a resource manager',
  },
  TPM_RC_LOCALITY: {
    meaning: 'the command is not allowed from this locality',
    cause: 'what the firmware reserves for itself',
    fix: "do it in the device's firmware settings",
  },
  TPM_RC_YIELDED: {
    meaning: 'the TPM set the command aside and goes on when it is sent again',
    cause: 'a long computation; iotdm sends it again by itself for about ten seconds',
  },
  TPM_RC_CANCELED: {
    meaning: 'the command was cancelled',
    cause: 'the time limit of a driver or of another program',
    fix: 'run the same command again; a slow chip may need --timeout 300',
  },
  TPM_RC_TESTING: {
    meaning: 'the TPM is testing itself',
    cause: 'a TPM that has just been powered on; iotdm waits about ten seconds by itself',
  },
  TPM_RC_REFERENCE_H0: reference('handle', 1),
  TPM_RC_REFERENCE_H1: reference('handle', 2),
  TPM_RC_REFERENCE_H2: reference('handle', 3),
  TPM_RC_REFERENCE_H3: reference('handle', 4),
  TPM_RC_REFERENCE_H4: reference('handle', 5),
  TPM_RC_REFERENCE_H5: reference('handle', 6),
  TPM_RC_REFERENCE_H6: reference('handle', 7),
  TPM_RC_REFERENCE_S0: reference('session', 1),
  TPM_RC_REFERENCE_S1: reference('session', 2),
  TPM_RC_REFERENCE_S2: reference('session', 3),
  TPM_RC_REFERENCE_S3: reference('session', 4),
  TPM_RC_REFERENCE_S4: reference('session', 5),
  TPM_RC_REFERENCE_S5: reference('session', 6),
  TPM_RC_REFERENCE_S6: reference('session', 7),
  TPM_RC_NV_RATE: {
    meaning: 'the TPM slows down writing to spare its memory',
    cause: 'many writes to persistent memory in a short time',
    fix: 'wait a minute and run the same command again',
  },
  TPM_RC_LOCKOUT: {
    meaning: 'the TPM is locked out: it refuses authorizations for a time (dictionary attack protection)',
    cause: 'wrong authorization values, or power taken away from a running device several times',
  },
  TPM_RC_RETRY: {
    meaning: 'the TPM could not begin the command just now',
    cause: 'a busy TPM; iotdm sends it again by itself for about ten seconds',
  },
  TPM_RC_NV_UNAVAILABLE: {
    meaning: 'the persistent memory cannot be written just now',
    cause: 'a TPM that is busy with its memory, or in a simulator NV that was not switched on',
  },
};
