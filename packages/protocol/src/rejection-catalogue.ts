/**
 * The texts of the rejection catalogue, as data. `rejection.ts` is its interface.
 *
 * `verified` says what the refusing party had established when it refused; `state` what the refusal left; `cure` what
 * to do now; `exit` which exit code the command line ends with. `{name}` stands for a detail of the rejection.
 */

type Entry = {
  readonly verified: 'nothing' | 'form' | 'authenticator' | 'chain' | 'request';
  readonly happened: string;
  readonly state: string;
  readonly cure: string;
  readonly exit: 2 | 3 | 4 | 5 | 6;
};

const UNCHANGED = 'Nothing was changed.';

export const CATALOGUE = {
  // --- form: CBOR, COSE, schema -------------------------------------------------------------------------------
  'cbor-too-large': { verified: 'nothing', happened: 'The input has {bytes} bytes; at most {limitBytes} are allowed.', state: UNCHANGED, cure: 'Check that this is the file or message that was meant.', exit: 3 },
  'cbor-too-deep': { verified: 'nothing', happened: 'The CBOR is nested deeper than {limit} levels.', state: UNCHANGED, cure: 'No message of this protocol is: ask the sender.', exit: 3 },
  'cbor-malformed': { verified: 'nothing', happened: 'This is not CBOR of this protocol ({reason}).', state: UNCHANGED, cure: 'It may be cut off or altered: take the original again.', exit: 3 },
  'cbor-duplicate-key': { verified: 'nothing', happened: 'The CBOR has the same map key twice ({reason}).', state: UNCHANGED, cure: 'Ask the sender for the original message.', exit: 3 },
  'cbor-not-deterministic': { verified: 'nothing', happened: 'The CBOR is not in the deterministic encoding of RFC 8949, 4.2.1.', state: UNCHANGED, cure: 'It was re-encoded on its way: take the original bytes.', exit: 3 },
  'malformed': { verified: 'nothing', happened: 'The field {path} is not as its schema says: {reason}.', state: UNCHANGED, cure: 'Compare the message with its page in docs/protocol.', exit: 3 },
  'unknown-field': { verified: 'nothing', happened: 'The field {path} has an unknown key {key}.', state: UNCHANGED, cure: 'A newer sender must announce a newer version: update this party or ask the sender.', exit: 3 },
  'envelope-malformed': { verified: 'nothing', happened: 'This is not a COSE_Sign1 or COSE_Mac0 message of this protocol: {reason}.', state: UNCHANGED, cure: 'Check that this is a Countermark file, whole and unaltered.', exit: 3 },
  'unsupported-version': { verified: 'nothing', happened: 'The {type} has version {version}; this party knows version {supported}.', state: UNCHANGED, cure: 'Update this party, or ask the sender for a version that both know. Nothing needs to be franked again.', exit: 3 },
  'wrong-type': { verified: 'nothing', happened: 'A {expected} was expected; the envelope says {type}.', state: UNCHANGED, cure: 'Give the message where it belongs.', exit: 3 },
  'limit-exceeded': { verified: 'nothing', happened: 'Too much at once: {what} is {value}, at most {limit}.', state: UNCHANGED, cure: 'Send less at once.', exit: 3 },
  'unknown-operation': { verified: 'nothing', happened: 'The operation {operation} does not exist here.', state: UNCHANGED, cure: 'The two programs may be of different versions: update both.', exit: 2 },
  'not-available': { verified: 'nothing', happened: '{what} is not part of this version.', state: UNCHANGED, cure: '{cure}', exit: 2 },
  'try-again': { verified: 'nothing', happened: 'The other side cannot answer now: {reason}.', state: 'Nothing was lost: what was sent is kept by its sender.', cure: 'It is tried again by itself; or try again later.', exit: 5 },
  'internal-fault': { verified: 'nothing', happened: 'A fault in {where} (fault {fault}).', state: 'What was answered before is durable; this request may or may not have been.', cure: 'Ask again: every operation can be repeated. See the log of that process.', exit: 5 },

  // --- authentication -----------------------------------------------------------------------------------------
  'unknown-key': { verified: 'form', happened: 'No public key is known for {holder} epoch {epoch}.', state: UNCHANGED, cure: 'Give the trust bundle or the device certificate that names it.', exit: 3 },
  'unknown-device': { verified: 'form', happened: 'The device {device} is not enrolled here.', state: UNCHANGED, cure: 'Enrol it, or send the record to the server that knows it.', exit: 3 },
  'bad-authenticator': { verified: 'form', happened: 'The {type} of {holder} is not authentic: its signature or code does not fit its bytes.', state: UNCHANGED, cure: 'It was altered, or made with another key: take the original again.', exit: 3 },
  'wrong-algorithm': { verified: 'form', happened: 'The {type} of {holder} is authenticated by {algorithm}; {expected} is enrolled.', state: UNCHANGED, cure: 'Ask who made it: a change of procedure needs a new enrolment.', exit: 3 },
  'wrong-device': { verified: 'authenticator', happened: 'The {type} is for the device {device}, not for {expected}.', state: UNCHANGED, cure: 'Give it to the device that it names.', exit: 3 },
  'mac-needs-attestation': { verified: 'form', happened: 'The record is authenticated by a code that only its device and the cryptographic device can check.', state: UNCHANGED, cure: 'Check its attestation instead, which names this record by its digest.', exit: 3 },
  'attestation-mismatch': { verified: 'authenticator', happened: 'The attestation speaks of {what} {attested}, the record has {actual}.', state: 'Nothing was confirmed.', cure: 'One of the two was altered or exchanged: authenticate the record again.', exit: 3 },

  // --- chain --------------------------------------------------------------------------------------------------
  'fork': { verified: 'authenticator', happened: 'Device {device} sent two different records for its sequence {sequence}.', state: 'Both are kept as evidence; the device is suspended: no funds and no grants.', cure: 'Withdraw the device and enrol it again. A copied device store is the usual cause.', exit: 5 },
  'out-of-order': { verified: 'authenticator', happened: 'Device {device} sent sequence {sequence}; {expected} is expected.', state: UNCHANGED, cure: 'Send the records from {expected} on, in order.', exit: 5 },
  'inconsistent': { verified: 'authenticator', happened: 'The record {sequence} of device {device} contradicts itself or its predecessor: {reason}.', state: 'It is kept as quarantined; the chain stands where it stood.', cure: 'The device must be examined.', exit: 5 },

  // --- PSD: state and policy ----------------------------------------------------------------------------------
  'wrong-state': { verified: 'request', happened: 'The device is {state}; {operation} needs {needs}.', state: UNCHANGED, cure: '{cure}', exit: 6 },
  'device-locked': { verified: 'request', happened: 'The device is locked by its policy: {reason}.', state: 'Closing, sending and confirming go on; opening and franking do not.', cure: 'Send the waiting records (countermark statistics send): their confirmations lift the lock.', exit: 6 },
  'batch-open': { verified: 'request', happened: 'The batch {batch} is open; one batch is open at a time.', state: UNCHANGED, cure: 'Close it first (countermark batch close).', exit: 3 },
  'no-open-batch': { verified: 'request', happened: 'The batch {batch} is not open.', state: UNCHANGED, cure: 'See countermark batch list.', exit: 3 },
  'batch-exists': { verified: 'request', happened: 'The batch {batch} was used before with another declaration.', state: UNCHANGED, cure: 'Open a batch with a new id.', exit: 3 },
  'unknown-customer': { verified: 'request', happened: 'The customer {customer} is not registered for this device.', state: UNCHANGED, cure: 'Register the customer at the server; the device receives it with its next policy.', exit: 3 },
  'customer-missing': { verified: 'request', happened: 'This device franks for customers; the batch names none.', state: UNCHANGED, cure: 'Name the customer in the column `customer`.', exit: 3 },
  'chunk-out-of-order': { verified: 'request', happened: 'The chunk starts at {index}; {expected} is expected.', state: UNCHANGED, cure: 'Ask for the chunk at {expected}.', exit: 5 },
  'chunk-conflict': { verified: 'request', happened: 'The chunk at {index} was franked before with other content.', state: UNCHANGED, cure: 'Ask with the content that was asked first.', exit: 5 },
  'chunk-too-large': { verified: 'request', happened: 'The chunk has {pieces} pieces; at most {limit} are allowed.', state: UNCHANGED, cure: 'Ask for fewer pieces.', exit: 3 },
  'chunk-no-longer-held': { verified: 'request', happened: 'The chunk at {index} was acknowledged by a later one; the device no longer holds it.', state: UNCHANGED, cure: 'The host stored it when it asked for the next: see its journal.', exit: 5 },
  'too-many-pieces': { verified: 'request', happened: 'The batch would have {pieces} pieces; {expected} were declared.', state: UNCHANGED, cure: 'Close the batch and open another.', exit: 3 },
  'too-many-cells': { verified: 'request', happened: 'The batch would have {cells} rate cells; {expected} were declared.', state: UNCHANGED, cure: 'Close the batch and open another.', exit: 3 },
  'insufficient-funds': { verified: 'request', happened: 'The chunk needs {neededMills} mills; the device holds {availableMills}.', state: 'Nothing of this chunk was franked or debited; what was franked before stays franked.', cure: 'Refill (countermark funds refill AMOUNT) and run the same command again: only what was not franked is franked.', exit: 4 },
  'postage-out-of-range': { verified: 'request', happened: 'A piece has a postage of {postageMills} mills; the policy allows {lowestMills} to {highestMills}.', state: 'Nothing of this chunk was franked.', cure: 'Check the weight and product of the piece, or ask the authority for another policy.', exit: 3 },
  'memory-full': { verified: 'request', happened: 'The memory for {what} is full ({used} of {capacity}).', state: 'Nothing was dropped; the next batch is refused.', cure: 'Send the waiting records (countermark statistics send); confirmations make room.', exit: 6 },
  'memory-too-small': { verified: 'request', happened: 'The device keeps {capacity} records; holding for {holdFor} needs at least {needed}.', state: 'The host did not start.', cure: 'Raise the capacity in the policy, or shorten holdFor.', exit: 2 },
  'unknown-piece': { verified: 'request', happened: 'The piece number {pieceNumber} is not one of the open batch.', state: UNCHANGED, cure: 'See countermark batch show; only pieces of a batch that is not closed can be spoiled.', exit: 3 },
  'too-many-spoiled': { verified: 'request', happened: 'The batch would have {spoiled} spoiled pieces; at most {limit} fit in its record.', state: UNCHANGED, cure: 'Close the batch and frank the rest in another.', exit: 3 },
  'recount-altered': { verified: 'request', happened: 'The record of piece {pieceNumber} is not as the device made it.', state: 'The batch stays closed and can be recounted again.', cure: 'Restore the journal of the host, or close the batch incomplete (countermark batch close --incomplete).', exit: 5 },
  'recount-out-of-order': { verified: 'request', happened: 'The recount is at {expected}, not at {index}.', state: 'The recount can be started again from 0.', cure: 'Stream the records from index {expected}, or start again from 0.', exit: 5 },
  'recount-missing': { verified: 'request', happened: 'The recount has {counted} pieces; the device franked {franked}. The first that is missing is piece {pieceNumber}.', state: 'The batch stays closed and can be recounted again.', cure: 'Restore the journal of the host, or close the batch incomplete (countermark batch close --incomplete).', exit: 5 },
  'journal-damaged': { verified: 'request', happened: 'The journal of the host has no usable record of piece {pieceNumber} of batch {batch}: {reason}.', state: 'The device has counted it; its registers are right. The batch stays closed.', cure: 'Restore the journal from a backup, or close the batch incomplete (countermark batch close --incomplete).', exit: 5 },
  'unknown-record': { verified: 'request', happened: 'The device holds no unconfirmed record {sequence}.', state: UNCHANGED, cure: 'It may be confirmed already: see countermark statistics list.', exit: 3 },
  'record-differs': { verified: 'request', happened: 'The record {sequence} that the host supplied is not the one that the device keeps.', state: 'It was not sent; the device keeps its own.', cure: 'The memory of the host was altered: export the record from the device again (countermark statistics list).', exit: 5 },
  'confirmation-mismatch': { verified: 'authenticator', happened: 'The confirmation for sequence {sequence} names another digest than the record that the device keeps.', state: 'Nothing was deleted; an alarm was raised.', cure: 'Report it to the server operator with both files: it must never happen.', exit: 5 },
  'already-confirmed': { verified: 'authenticator', happened: 'The record {sequence} was confirmed before with the same digest.', state: UNCHANGED, cure: 'Nothing needs to be done.', exit: 3 },
  'stale-policy': { verified: 'authenticator', happened: 'The policy has version {version}; the device has {current}.', state: UNCHANGED, cure: 'Nothing needs to be done: the device has a newer one.', exit: 3 },
  'stale-time': { verified: 'authenticator', happened: 'The signed time lies before the one that the device has seen.', state: 'Time never goes back.', cure: 'Ask the server for the time again.', exit: 3 },
  'funds-request-pending': { verified: 'request', happened: 'The funds request {number} is still without its grant.', state: UNCHANGED, cure: 'The same request is sent again; it is granted once.', exit: 4 },
  'wrong-funds-grant': { verified: 'authenticator', happened: 'The funds grant answers request {number}; {expected} is pending.', state: 'No funds were added.', cure: 'Nothing needs to be done if it was booked before; else send the pending request again.', exit: 4 },
  'funds-limit': { verified: 'authenticator', happened: 'With {amountMills} mills more the device would hold {totalMills}; at most {limitMills} are allowed.', state: 'No funds were added.', cure: 'Refill less, or frank first.', exit: 4 },
  'store-in-use': { verified: 'nothing', happened: 'The store {store} is in use by another process.', state: 'This process did not start.', cure: 'Stop the other one first: two devices on one store would be a copy.', exit: 6 },
  'store-damaged': { verified: 'nothing', happened: 'The store {store} is damaged: {reason}.', state: 'The process did not start and wrote nothing.', cure: 'Restore it from a backup; keep the damaged file for examination.', exit: 6 },
  'session-clock': { verified: 'nothing', happened: 'The session failed because a certificate is outside its dates ({reason}): the clock of this machine is probably wrong.', state: 'Nothing was lost; the records wait.', cure: 'Set the clock, or send without a session (countermark statistics export / confirmation import).', exit: 5 },
  'session-failed': { verified: 'nothing', happened: 'The session could not be established: {reason}.', state: 'Nothing was lost; the records wait.', cure: 'It is tried again by itself. The way without a session remains (countermark statistics export).', exit: 5 },

  // --- host: files, jobs --------------------------------------------------------------------------------------
  'file-unreadable': { verified: 'nothing', happened: 'The file {file} cannot be read: {reason}.', state: 'Nothing was franked.', cure: 'Check its name and permissions.', exit: 3 },
  'file-encoding': { verified: 'nothing', happened: 'The file {file} is not {encoding} (byte {offset} in line {line}).', state: 'Nothing was franked.', cure: 'Save it as UTF-8, or name its encoding with --encoding (for example windows-1252).', exit: 3 },
  'file-empty': { verified: 'nothing', happened: 'The file {file} has no rows.', state: 'Nothing was franked.', cure: 'See countermark batch template for an example.', exit: 3 },
  'file-columns': { verified: 'nothing', happened: 'The file {file} lacks the column {column}.', state: 'Nothing was franked.', cure: 'Name it in the header; countermark batch template prints an example.', exit: 3 },
  'file-structure': { verified: 'nothing', happened: 'The file {file} is not readable as CSV in line {line}: {reason}.', state: 'Nothing was franked.', cure: 'Correct that line; fields with separators or quotes must stand in quotes.', exit: 3 },
  'file-rows': { verified: 'nothing', happened: '{bad} of {rows} rows of {file} are wrong; the first: row {row}, {field}: {reason}.', state: 'Nothing was franked.', cure: 'Correct the rows listed in {errorsFile}, or frank the rest with --accept-good.', exit: 3 },
  'job-conflict': { verified: 'nothing', happened: 'The job {job} is being franked already.', state: UNCHANGED, cure: 'Wait until it ends: countermark status.', exit: 3 },
  'unknown-job': { verified: 'nothing', happened: 'There is no job {job}.', state: UNCHANGED, cure: 'See countermark batch list.', exit: 3 },
  'unknown-batch': { verified: 'nothing', happened: 'There is no batch {batch}.', state: UNCHANGED, cure: 'See countermark batch list.', exit: 3 },
  'usage': { verified: 'nothing', happened: '{reason}', state: UNCHANGED, cure: 'See countermark help.', exit: 2 },
  'config-invalid': { verified: 'nothing', happened: 'The configuration {file} is not valid: {reason}.', state: 'Nothing was started.', cure: 'Correct it; docs/configuration.md lists every setting.', exit: 2 },
  'not-running': { verified: 'nothing', happened: 'No Countermark is running on {data}.', state: UNCHANGED, cure: 'Start it with npm start, or countermark up.', exit: 5 },

  // --- server, authority --------------------------------------------------------------------------------------
  'unauthorised': { verified: 'nothing', happened: 'The caller is not allowed to do this.', state: UNCHANGED, cure: 'Use the credential that was issued at enrolment.', exit: 2 },
  'unknown-licensee': { verified: 'nothing', happened: 'The licensee {licensee} is not registered.', state: UNCHANGED, cure: 'Register it at the server.', exit: 3 },
  'idempotency-conflict': { verified: 'nothing', happened: 'The Idempotency-Key was used before with another request.', state: UNCHANGED, cure: 'Use a new key for a new request.', exit: 3 },
  'insufficient-deposit': { verified: 'request', happened: 'The deposit holds {availableMills} mills; {neededMills} were asked.', state: 'No funds were granted.', cure: 'Pay in first, or ask for less.', exit: 4 },
  'device-suspended': { verified: 'request', happened: 'The device {device} is suspended: {reason}.', state: 'Its records are still accepted, marked; funds and grants stop.', cure: 'Ask the server operator.', exit: 6 },
  'grant-twice': { verified: 'authenticator', happened: 'The grant {grant} was booked before.', state: UNCHANGED, cure: 'Nothing needs to be done.', exit: 3 },
} as const satisfies Record<string, Entry>;

export type RejectionCode = keyof typeof CATALOGUE;
