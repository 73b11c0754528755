// A thread with one session on a PKCS#11 token: signs digests, agrees secrets, makes, finds and destroys keys, keeps marks.
//
// Guarantees: keys are found by label and never read out; of a key agreement only the shared secret comes back. A failure is answered with
// its name (CKR_...) and what kind it is: `refused` (someone must act, and trying a PIN again could lock the token), or `unavailable`.
// Does not decide what is signed, and retries nothing: who asks begins anew with another thread (hsm-threads.ts).
import { parentPort, workerData } from 'node:worker_threads';
import pkcs11js from 'pkcs11js';

const P256 = Buffer.from('06082a8648ce3d030107', 'hex');
const DIGEST_BYTES = 32;
const SIGNATURE_BYTES = 64;
const POINT_BYTES = 65;
const SECRET_BYTES = 32;
/** Data object that is written when the last key is made: without it what lies there was never used. */
const COMPLETE = 'countermark-complete';

const {
  CKA_CLASS,
  CKA_DERIVE,
  CKA_EC_PARAMS,
  CKA_EC_POINT,
  CKA_EXTRACTABLE,
  CKA_ID,
  CKA_KEY_TYPE,
  CKA_LABEL,
  CKA_NEVER_EXTRACTABLE,
  CKA_PRIVATE,
  CKA_SENSITIVE,
  CKA_SIGN,
  CKA_TOKEN,
  CKA_VALUE,
  CKA_VALUE_LEN,
  CKA_VERIFY,
  CKD_NULL,
  CKF_OS_LOCKING_OK,
  CKF_RW_SESSION,
  CKF_SERIAL_SESSION,
  CKK_GENERIC_SECRET,
  CKM_EC_KEY_PAIR_GEN,
  CKM_ECDH1_DERIVE,
  CKM_ECDSA,
  CKO_DATA,
  CKO_PRIVATE_KEY,
  CKO_PUBLIC_KEY,
  CKO_SECRET_KEY,
  CK_PARAMS_EC_DH,
  CKU_USER,
} = pkcs11js;

const KEY_KINDS = [CKO_PRIVATE_KEY, CKO_PUBLIC_KEY];

/** After these nothing is tried again: each try with a wrong PIN is counted by the token. */
const REFUSED = /CKR_(PIN_|USER_PIN_NOT_INITIALIZED)/;

const { module: path, label, pin, anew } = workerData;
const token = new pkcs11js.PKCS11();
const handles = new Map();
let session;

class Refused extends Error {}

function begin() {
  token.load(path);
  initialise();
  const slots = token.C_GetSlotList(true).filter((slot) => token.C_GetTokenInfo(slot).label.trim() === label);
  if (slots.length === 0) throw new Error(`there is no token with the label ${label} at this module`);
  if (slots.length > 1) throw new Refused(`${slots.length} tokens have the label ${label}`);
  session = token.C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION);
  unless('CKR_USER_ALREADY_LOGGED_IN', () => token.C_Login(session, CKU_USER, pin));
}

/** Anew: a module that has lost its token may find it only then. No other thread has a session by then. */
function initialise() {
  const options = { flags: CKF_OS_LOCKING_OK };
  const known = unless('CKR_CRYPTOKI_ALREADY_INITIALIZED', () => token.C_Initialize(options));
  if (!known || !anew) return;
  token.C_Finalize();
  token.C_Initialize(options);
}

/** Whether it failed with that; throws what else it fails with. */
function unless(name, work) {
  try {
    work();
    return false;
  } catch (error) {
    if (String(error.message).startsWith(name)) return true;
    throw error;
  }
}

function find(template) {
  token.C_FindObjectsInit(session, template);
  try {
    const found = [];
    for (let next = token.C_FindObjects(session); next; next = token.C_FindObjects(session)) found.push(next);
    return found;
  } finally {
    token.C_FindObjectsFinal(session);
  }
}

/** Names that begin so, of private and public keys. */
function namesOf(prefix) {
  const labels = KEY_KINDS.flatMap((kind) =>
    find([
      { type: CKA_CLASS, value: kind },
      { type: CKA_TOKEN, value: true },
    ]).map(labelOf),
  );
  return [...new Set(labels)].filter((name) => name.startsWith(prefix));
}

function objects(kind, name) {
  return find([
    { type: CKA_CLASS, value: kind },
    { type: CKA_TOKEN, value: true },
    { type: CKA_LABEL, value: name },
  ]);
}

function privateKey(name) {
  const known = handles.get(name);
  if (known !== undefined) return known;
  const [handle, ...others] = objects(CKO_PRIVATE_KEY, name);
  // It was there when the keys were opened: the token may be away.
  if (handle === undefined) throw new Error(`the key ${name} is not on the token`);
  if (others.length > 0) throw new Refused(`the token has ${others.length + 1} keys ${name}`);
  handles.set(name, handle);
  return handle;
}

/** A key's public point, and whether its private part is there, which must stay inside. Null where its making was interrupted. */
function examined(name) {
  const keys = objects(CKO_PRIVATE_KEY, name);
  const points = objects(CKO_PUBLIC_KEY, name);
  if (points.length === 0) return null;
  if (keys.length > 1 || points.length > 1) {
    throw new Refused(`the token has ${keys.length} private and ${points.length} public keys ${name}`);
  }
  const signs = keys.length === 1;
  const flag = (type) => token.C_GetAttributeValue(session, keys[0], [{ type }])[0].value[0] === 1;
  if (signs && (!flag(CKA_SENSITIVE) || flag(CKA_EXTRACTABLE) || !flag(CKA_NEVER_EXTRACTABLE))) {
    throw new Refused(`the key ${name} could be read out of the token, or could once`);
  }
  const [{ value }] = token.C_GetAttributeValue(session, points[0], [{ type: CKA_EC_POINT }]);
  // DER OCTET STRING around the point (PKCS#11 2.40, 2.3.3); some modules give the point itself.
  const point =
    value.length === POINT_BYTES + 2 && value[0] === 4 && value[1] === POINT_BYTES ? value.subarray(2) : value;
  if (point.length !== POINT_BYTES || point[0] !== 4) throw new Refused(`the key ${name} is not on P-256`);
  return { point: Uint8Array.from(point), signs };
}

function remove(kind, name) {
  for (const handle of objects(kind, name)) token.C_DestroyObject(session, handle);
  handles.delete(name);
}

function labelOf(handle) {
  return String(token.C_GetAttributeValue(session, handle, [{ type: CKA_LABEL }])[0].value);
}

/** Makes keys; what an interrupted making left under their names is taken away first. */
function makeAll(names, deriving) {
  for (const name of names) {
    for (const kind of KEY_KINDS) remove(kind, name);
  }
  for (const name of names) make(name, deriving.includes(name));
}

/** Data objects of that name, each with its value, which has so many bytes; what another length has was never written to its end. */
function marks(name, length) {
  return objects(CKO_DATA, name)
    .map((handle) => ({ handle, value: token.C_GetAttributeValue(session, handle, [{ type: CKA_VALUE }])[0].value }))
    .filter(({ value }) => value.length === length);
}

function highest(found) {
  return found.reduce((most, { value }) => (most === null || Buffer.compare(value, most) > 0 ? value : most), null);
}

function write(name, value) {
  token.C_CreateObject(session, [
    { type: CKA_CLASS, value: CKO_DATA },
    { type: CKA_TOKEN, value: true },
    { type: CKA_PRIVATE, value: true },
    { type: CKA_LABEL, value: name },
    { type: CKA_VALUE, value: Buffer.from(value) },
  ]);
}

function make(name, derives) {
  const id = Buffer.from(name);
  const common = [
    { type: CKA_TOKEN, value: true },
    { type: CKA_LABEL, value: name },
    { type: CKA_ID, value: id },
  ];
  token.C_GenerateKeyPair(
    session,
    { mechanism: CKM_EC_KEY_PAIR_GEN },
    [...common, { type: CKA_EC_PARAMS, value: P256 }, { type: CKA_VERIFY, value: !derives }],
    [
      ...common,
      { type: CKA_PRIVATE, value: true },
      { type: CKA_SENSITIVE, value: true },
      { type: CKA_EXTRACTABLE, value: false },
      { type: CKA_SIGN, value: !derives },
      { type: CKA_DERIVE, value: derives },
    ],
  );
}

const operations = {
  /** Keys by name, of those that begin so, and whether the first set was once complete. */
  find: ({ prefix }) => ({
    keys: Object.fromEntries(
      (prefix === undefined ? [] : namesOf(prefix)).flatMap((name) => {
        const key = examined(name);
        return key === null ? [] : [[name, key]];
      }),
    ),
    complete: objects(CKO_DATA, COMPLETE).length > 0,
  }),
  /** Takes away what an interrupted making left, and makes all keys. */
  make: ({ names, deriving }) => {
    makeAll(names, deriving);
    write(COMPLETE, names.join(' '));
    return null;
  },
  /** A key that signs, or one for agreements, in place of what an interrupted rotation left under its name; its point. */
  renew: ({ name, derives }) => {
    makeAll([name], derives ? [name] : []);
    return examined(name).point;
  },
  /** Destroys the private part. */
  retire: ({ name }) => {
    remove(CKO_PRIVATE_KEY, name);
    return null;
  },
  /** The public point of a key whose private part is there, or null. */
  point: ({ name }) => {
    const key = examined(name);
    return key?.signs === true ? key.point : null;
  },
  /** Makes these keys, whatever else there is; answers their points. */
  generate: ({ names, deriving }) => {
    makeAll(names, deriving);
    return Object.fromEntries(names.map((name) => [name, examined(name).point]));
  },
  /** Destroys all keys whose names begin so, but for these. */
  keep: ({ prefix, names }) => {
    for (const name of namesOf(prefix).filter((one) => !names.includes(one))) {
      for (const kind of KEY_KINDS) remove(kind, name);
    }
    return null;
  },
  /** The highest value of that name, as big-endian numbers are compared, or null. */
  mark: ({ name, length }) => {
    const value = highest(marks(name, length));
    return value === null ? null : Uint8Array.from(value);
  },
  /**
   * Writes the next value where `before` is the highest (null: where there is none), then takes the lower ones away, so that there is always a
   * whole one, wherever this is cut off. Written already, it only tidies up. Answers whether another one stood there.
   */
  raise: ({ name, before, next }) => {
    const found = marks(name, next.length);
    const last = highest(found);
    const written = last !== null && Buffer.compare(last, next) === 0;
    if (!written) {
      // It was there before: the token may be away.
      if (last === null && before !== null) throw new Error(`${name} is not on the token`);
      if (last !== null && (before === null || Buffer.compare(last, before) !== 0)) return true;
      write(name, next);
    }
    for (const { handle, value } of found) {
      if (Buffer.compare(value, next) !== 0) token.C_DestroyObject(session, handle);
    }
    return false;
  },
  /** ECDSA over each digest of 32 bytes; signatures r || s one after the other. */
  sign: ({ name, digests }) => {
    const key = privateKey(name);
    const count = digests.length / DIGEST_BYTES;
    const signatures = new Uint8Array(count * SIGNATURE_BYTES);
    const room = Buffer.alloc(SIGNATURE_BYTES);
    for (let i = 0; i < count; i += 1) {
      token.C_SignInit(session, { mechanism: CKM_ECDSA }, key);
      const digest = Buffer.from(digests.buffer, digests.byteOffset + i * DIGEST_BYTES, DIGEST_BYTES);
      signatures.set(token.C_Sign(session, digest, room), i * SIGNATURE_BYTES);
    }
    return signatures;
  },
  /** ECDH with each point of 65 bytes; the shared x coordinates one after the other. */
  agree: ({ name, points }) => {
    const key = privateKey(name);
    const count = points.length / POINT_BYTES;
    const secrets = new Uint8Array(count * SECRET_BYTES);
    for (let i = 0; i < count; i += 1) {
      const publicData = Buffer.from(points.buffer, points.byteOffset + i * POINT_BYTES, POINT_BYTES);
      const parameter = { type: CK_PARAMS_EC_DH, kdf: CKD_NULL, publicData };
      const secret = token.C_DeriveKey(session, { mechanism: CKM_ECDH1_DERIVE, parameter }, key, [
        { type: CKA_CLASS, value: CKO_SECRET_KEY },
        { type: CKA_KEY_TYPE, value: CKK_GENERIC_SECRET },
        { type: CKA_VALUE_LEN, value: SECRET_BYTES },
        { type: CKA_TOKEN, value: false },
        { type: CKA_SENSITIVE, value: false },
        { type: CKA_EXTRACTABLE, value: true },
      ]);
      const [{ value }] = token.C_GetAttributeValue(session, secret, [{ type: CKA_VALUE }]);
      secrets.set(value, i * SECRET_BYTES);
      value.fill(0);
      token.C_DestroyObject(session, secret);
    }
    return secrets;
  },
};

/** Before the thread ends: the module counts sessions. */
function end() {
  if (session !== undefined) token.C_CloseSession(session);
  session = undefined;
  return null;
}

function failure(error) {
  const reason = error instanceof Error ? error.message : String(error);
  return { kind: error instanceof Refused || REFUSED.test(reason) ? 'refused' : 'unavailable', reason };
}

function answer(operation, parameters) {
  try {
    if (operation === 'end') return { value: end() };
    if (session === undefined) begin();
    return { value: operations[operation](parameters) };
  } catch (error) {
    return { failure: failure(error) };
  }
}

/** `now`: who asks waits for it, and looks at the port when it is woken. */
parentPort.on('message', ({ id, operation, parameters, now }) => {
  const given = answer(operation, parameters);
  if (now === undefined) {
    parentPort.postMessage({ id, ...given });
    return;
  }
  now.port.postMessage(given);
  Atomics.store(now.done, 0, 1);
  Atomics.notify(now.done, 0);
});
