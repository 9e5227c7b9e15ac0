// The pages keep up with the code: architectures, flags, environment variables, and links that lead somewhere.
import type { Command } from 'commander';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { createProgram } from '../src/cli/program.ts';
import { supportedArchitectures } from '../src/models/registry.ts';

const ROOT = path.resolve(import.meta.dirname, '..');
const read = (file: string) => readFileSync(path.join(ROOT, file), 'utf8');

function flagsOf(command: Command): string[] {
  return [...command.options.map((option) => option.long!), ...command.commands.flatMap(flagsOf)];
}

function filesBelow(folder: string, suffix: string): string[] {
  return readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith(suffix) && !name.endsWith(`.test${suffix}`))
    .map((name) => path.join(folder, name));
}

describe('docs/features.md', () => {
  const page = read('docs/features.md');

  it.each(supportedArchitectures())('names the architecture %s', (name) =>
    expect(page).toContain(`\`${name}\``),
  );

  it.each([...new Set(flagsOf(createProgram()))].filter((flag) => flag !== '--version'))(
    'explains the flag %s',
    (flag) => expect(page).toMatch(new RegExp(`\`${flag}[\` ]`)),
  );
});

it('docs/env-vars.md names every variable that the source reads', () => {
  const page = read('docs/env-vars.md');
  const used = filesBelow('src', '.ts').flatMap((file) =>
    Array.from(read(file).matchAll(/\benv(?:\(|\[|\.)'?([A-Z][A-Z\d_]+)/g), (match) => match[1]),
  );
  expect(used).toContain('HF_TOKEN');
  for (const name of new Set(used)) expect(page).toContain(name);
});

describe.each(['README.md', 'CONTRIBUTING.md', ...filesBelow('docs', '.md')])('%s', (file) => {
  it('links to what exists', () => {
    const targets = Array.from(read(file).matchAll(/\]\((?!https?:)([^)#]+)/g), (match) => match[1]);
    for (const target of targets)
      expect(existsSync(path.join(ROOT, path.dirname(file), target)), target).toBe(true);
  });
});
