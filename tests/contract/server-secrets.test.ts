/**
 * No secret in any log: a run in which everything is done and everything goes wrong, logged in every detail, has none of the credentials
 * and keys that it knew; nor has the audit trail. Of all five processes: tests/adversary/processes/people.test.ts.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { encodeWith } from '@countermark/protocol/schema';
import { submissionSchema } from '@countermark/protocol/interfaces/answer';
import { expect, it } from 'vitest';
import { privateKeysBelow, type Secret, secretsIn } from '../secrets-in-text.ts';
import { ask, enrolled, eventually, licensee, type Parties, startParties, submit } from './server-parties.ts';

it('The log of a server, and its audit trail, have no credential and no key', async () => {
  const lines: string[] = [];
  const configured = randomBytes(32).toString('hex');
  const parties = await startParties({
    write: (line) => lines.push(line),
    settings: {
      operators: [{ name: 'colleague', credential: configured }],
      rateLimits: { failuresPerAddress: 8, failuresPerName: 2 },
    },
  });
  const of = 'lic_secrets';
  const secrets: Secret[] = [
    { name: 'the bootstrap credential', value: parties.operator },
    { name: 'a configured credential', value: configured },
    { name: 'the delivery credential', value: parties.authority.credential },
  ];
  const known = (name: string, value: string): string => {
    secrets.push({ name, value });
    return value;
  };
  try {
    const host = known('a host credential', await licensee(parties, of, '1000000'));
    const device = await enrolled(parties, host, of);
    device.receive(100_000n);
    await submit(parties, host, [device.record(), device.record()]);
    const person = async (name: string, role: string): Promise<string> => {
      const added = await ask(parties, parties.operator, '/v1/people', { name, role });
      const { credential } = added.json<{ credential: string }>();
      known(`the secret of ${name}`, credential.slice(name.length + 1));
      return credential;
    };
    const [officer, auditor] = [await person('otto', 'officer'), await person('anna', 'auditor')];
    await ask(parties, configured, `/v1/devices/${device.device}/death`, { reason: 'burnt' });
    await ask(parties, officer, `/v1/devices/${device.device}/death/confirmation`, {});
    await everythingWrong(parties, host, [officer, auditor, host, parties.operator]);
    // What the server does by itself fails too, and is logged.
    parties.authority.answer = () => null;
    parties.service.wake();
    await eventually(
      async () => lines.filter((line) => line.includes('"level":50')).length,
      (count) => count > 0,
    );
    const trail = await ask(parties, parties.operator, '/v1/audit-entries?limit=1000');
    secrets.push(...privateKeysBelow(join(parties.folder, 'cd')));
    expect(secrets.filter(({ name }) => name.startsWith('a private key')).length).toBeGreaterThanOrEqual(5);
    expect(lines.length).toBeGreaterThan(3);
    expect(lines.join('\n')).toContain('Credentials were refused too often');
    expect(secretsIn(lines.join('\n'), secrets)).toEqual([]);
    expect(secretsIn(Buffer.from(trail.body).toString(), secrets)).toEqual([]);
    // The search finds what it looks for, whole or cut, in other forms too.
    for (const { name, value } of secrets) {
      const bytes = Buffer.from(value as string, typeof value === 'string' ? 'hex' : undefined);
      for (const form of [bytes.toString('hex'), bytes.toString('base64').slice(0, 24), bytes.toString('base64url')]) {
        expect(secretsIn(`{"reason":"x${form}y"}`, secrets)).toEqual([name]);
      }
    }
  } finally {
    await parties.stop();
  }
});

/** Puts secrets where they do not belong, and breaks what can be broken from outside. */
async function everythingWrong(parties: Parties, host: string, credentials: readonly string[]): Promise<void> {
  for (const credential of credentials) {
    const at = encodeURIComponent(credential);
    await ask(parties, host, `/v1/licensees/${at}/accounts`);
    await ask(parties, host, `/v1/${at}`);
    await ask(parties, host, `/v1/devices?after=${at}`);
    await ask(parties, parties.operator, '/v1/licensees', { licensee: credential, name: credential, kind: credential });
    await ask(parties, parties.operator, `/v1/people/${at}/revocation`, {});
    await ask(parties, parties.operator, '/v1/people', Buffer.from(`{"name":"${credential}`), {
      'content-type': 'application/json',
    });
    await ask(parties, host, '/v1/records', encodeWith(submissionSchema, { records: [Buffer.from(credential)] }));
    await ask(parties, host, '/v1/funds-requests', Buffer.from(credential));
    await ask(parties, null, '/v1/records', Buffer.from(credential), { authorization: credential });
  }
  // Refused often enough to be told.
  for (let i = 0; i < 4; i++) await ask(parties, `otto.${randomBytes(32).toString('hex')}`, '/v1/devices');
  for (let i = 0; i < 8; i++) await ask(parties, `${credentials[2] ?? ''}0`.slice(1), '/v1/devices');
  // A fault inside: its text and stack are logged.
  await parties.service.database.transaction(async (tables) => {
    await tables.schema.alterTable('person').renameTo('person_away').execute();
  });
  for (const credential of credentials) await ask(parties, credential, '/v1/people');
  await ask(parties, parties.operator, '/v1/people', { name: 'late', role: 'auditor' });
  await parties.service.database.transaction(async (tables) => {
    await tables.schema.alterTable('person_away').renameTo('person').execute();
  });
}
