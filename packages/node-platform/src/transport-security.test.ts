/** What may be listened on and called: this machine without TLS, everything else with it. */
import { describe, expect, it } from 'vitest';
import { isLoopback, listeningOf, readTls, unsafeListening, unsafeUrl } from './transport-security.ts';

describe('An address', () => {
  it.each(['127.0.0.1', '127.8.9.10', '::1', '[::1]', 'localhost', 'LOCALHOST'])('%s is this machine', (host) => {
    expect(isLoopback(host)).toBe(true);
    expect(unsafeListening({ host, port: 1 })).toBe(null);
    expect(unsafeUrl(`http://${host.includes('::') ? '[::1]' : host}:1/`, 'x')).toBe(null);
  });

  it.each([
    '0.0.0.0',
    '::',
    '[::]',
    '10.0.0.1',
    '192.168.0.1',
    'localhost.example.org',
    '127.0.0.1.example.org',
    'server',
  ])('%s is not, and needs TLS', (host) => {
    expect(isLoopback(host)).toBe(false);
    expect(unsafeListening({ host, port: 1 })).toMatchObject({ code: 'insecure-address' });
    expect(unsafeListening({ host, port: 1, tls: { certFile: 'c', keyFile: 'k' } })).toBe(null);
    expect(unsafeListening({ host, port: 1, tls: 'in-front' })).toBe(null);
  });
});

describe('A URL', () => {
  it.each([
    'https://server.example/',
    'http://127.0.0.1:80/',
    'http://[::1]/',
    'sqlite:///var/lib/server.sqlite',
    'postgres://user@localhost/name',
    'postgres:///name',
    'postgres:///name?host=/run/postgresql',
    'postgresql://user:word@db.example/name?sslmode=verify-full',
    'postgres://user@db.example/name?sslmode=require',
  ])('%s may be called', (url) => {
    expect(unsafeUrl(url, 'x')).toBe(null);
  });

  it.each([
    ['http://server.example:8080/v1', 'server.example:8080'],
    ['HTTP://server.example', 'server.example'],
    ['http://user:word@10.0.0.1/', '10.0.0.1'],
    ['postgres://user:word@db.example/name', 'db.example'],
    ['postgres://user:word@db.example:5432/name?sslmode=prefer', 'db.example:5432'],
    ['postgresql://user:word@localhost/name?host=db.example', 'db.example'],
  ])('%s may not; its password is not said', (url, address) => {
    expect(unsafeUrl(url, 'The server')).toEqual({ code: 'insecure-address', detail: { what: 'The server', address } });
  });
});

describe('What is listened on', () => {
  it.each([
    [{ host: 'a', port: 1 }],
    [{ host: 'a', port: 1, tls: 'in-front' }],
    [{ host: 'a', port: 1, tls: { certFile: 'c', keyFile: 'k' } }],
  ])('is %j as it is given', (given) => {
    expect(listeningOf(given)).toEqual(given);
  });

  it.each([
    [null],
    [{ host: 'a' }],
    [{ host: '', port: 1 }],
    [{ host: 'a', port: 65_536 }],
    [{ host: 'a', port: 1, tls: true }],
    [{ host: 'a', port: 1, tls: { certFile: 'c' } }],
    [{ host: 'a', port: 1, tls: { certFile: 'c', keyFile: 'k', verify: false } }],
    [{ host: 'a', port: 1, secure: true }],
  ])('is not %j', (given) => {
    expect(listeningOf(given)).toBe(null);
  });

  it('needs files that can be read', () => {
    const tls = { certFile: '/nowhere/cert.pem', keyFile: '/nowhere/key.pem' };
    expect(readTls({ host: 'a', port: 1, tls })).toMatchObject({ rejection: { code: 'file-unreadable' } });
    expect(readTls({ host: 'a', port: 1, tls: 'in-front' })).toEqual({ ok: true, value: null });
  });
});
