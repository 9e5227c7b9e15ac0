// Installs the peer into a scratch folder: it is measured against, never depended on.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

export const PEER_VERSION = '3.22.1';

/** Does nothing if that version is there. Throws if npm fails. */
export function installPeer(scratch: string): void {
  if (installedVersion(scratch) === PEER_VERSION) return;
  console.error(`installing node-llama-cpp ${PEER_VERSION} into ${scratch}`);
  mkdirSync(scratch, { recursive: true });
  const args = ['install', '--prefix', scratch, '--no-audit', '--no-fund', `node-llama-cpp@${PEER_VERSION}`];
  const { status } = spawnSync('npm', args, { stdio: ['ignore', 2, 2] });
  if (status !== 0) throw new Error(`npm could not install node-llama-cpp ${PEER_VERSION} into ${scratch}`);
}

function installedVersion(scratch: string): string | null {
  const manifest = path.join(scratch, 'node_modules/node-llama-cpp/package.json');
  if (!existsSync(manifest)) return null;
  return (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
}
