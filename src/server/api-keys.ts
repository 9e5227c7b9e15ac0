// API keys: compared by their hashes in constant time, so that no answer's delay tells how much of a guess was right.
import { createHash, timingSafeEqual } from 'node:crypto';

export class ApiKeys {
  readonly #hashes: readonly Buffer[];

  constructor(keys: readonly string[]) {
    this.#hashes = keys.map(hashOf);
  }

  /**
   * Whether an `Authorization` header opens the server: `Bearer KEY`, or `Basic` with the key as password, which is
   * what a browser can send for a page.
   */
  accept(authorization: string | undefined): boolean {
    if (this.#hashes.length === 0) return true;
    const key = hashOf(keyOf(authorization ?? ''));
    return this.#hashes.reduce((isFound, hash) => timingSafeEqual(hash, key) || isFound, false);
  }
}

function keyOf(authorization: string): string {
  const [scheme = '', credentials = ''] = authorization.split(/ +/, 2);
  if (scheme.toLowerCase() === 'bearer') return credentials;
  if (scheme.toLowerCase() !== 'basic') return '';
  const pair = Buffer.from(credentials, 'base64').toString('utf8');
  return pair.slice(pair.indexOf(':') + 1);
}

function hashOf(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}
