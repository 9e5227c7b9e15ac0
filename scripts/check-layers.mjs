#!/usr/bin/env node
// Fails if an import under src/ goes against the layers, if files import each other in a circle, or if the engine's
// pure files read a clock. `node scripts/check-layers.mjs [SRC]`
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/**
 * What a file may import: the first line whose `from` names the file or a folder that holds it. Entries of `to` are
 * folders or single files; a folder may always import itself. Type-only imports count.
 */
const LAYERS = [
  { from: 'util', to: [] },
  { from: 'tensor', to: ['util'] },
  { from: 'ir', to: ['util', 'tensor'] },
  { from: 'nn', to: ['util', 'tensor', 'ir'] },
  { from: 'models', to: ['util', 'tensor', 'ir', 'nn'] },
  { from: 'quantization', to: ['util', 'tensor', 'ir'] },
  { from: 'kernels', to: ['util', 'tensor'] },
  { from: 'compiler', to: ['util', 'tensor', 'ir', 'kernels', 'models/model-definition.ts'] },
  { from: 'ffi', to: ['util'] },
  { from: 'device', to: ['util', 'tensor', 'ir', 'kernels', 'ffi', 'compiler/plan.ts'] },
  { from: 'checkpoint', to: ['util', 'tensor', 'ffi'] },
  { from: 'tokenizer', to: ['util'] },

  // Policy: numbers in, decisions out. No tensors, no device.
  { from: 'engine/scheduler.ts', to: ['util'] },
  { from: 'engine/block-manager.ts', to: ['util'] },
  { from: 'engine/block-hash.ts', to: ['util'] },
  { from: 'engine/sequence.ts', to: ['util'] },
  { from: 'engine/stop-checker.ts', to: ['util'] },
  // Mechanism: the files where plan, device and checkpoint meet.
  {
    from: 'engine/load-engine.ts',
    to: ['util', 'tensor', 'kernels', 'models', 'compiler', 'device', 'checkpoint'],
  },
  { from: 'engine/model-definitions.ts', to: ['util', 'models'] },
  { from: 'engine/subject.ts', to: ['util', 'tensor', 'kernels', 'models', 'compiler', 'checkpoint'] },
  { from: 'engine/plan-limits.ts', to: ['util', 'tensor', 'compiler'] },
  { from: 'engine/model-runner.ts', to: ['util', 'tensor', 'compiler', 'device'] },
  { from: 'engine', to: ['util', 'tensor', 'device/step.ts'] },

  { from: 'llm', to: ['util', 'tensor', 'checkpoint', 'tokenizer', 'engine'] },
  { from: 'server', to: ['util', 'tensor', 'checkpoint', 'tokenizer', 'engine', 'llm'] },
  { from: 'eval', to: ['*'], except: ['cli', 'server', 'bench'] },
  { from: 'bench', to: ['*'], except: ['cli'] },
  { from: 'cli', to: ['*'] },
  { from: 'index.ts', to: ['*'], except: ['cli', 'bench', 'eval'] },
];

/** Packages that one folder alone may import. */
const PACKAGE_OWNERS = { koffi: 'ffi', fastify: 'server', commander: 'cli', 'prom-client': 'server' };

/** Files whose time comes from an injected clock, so that a simulated device can run the same scheduler. */
const CLOCKLESS = [
  'scheduler',
  'block-manager',
  'block-hash',
  'sequence',
  'stop-checker',
  'batch',
  'llm-engine',
  'model-runner',
].map((name) => `engine/${name}.ts`);
const CLOCK_USE =
  /\bDate\.now\b|\bperformance\.now\b|\bset(?:Timeout|Interval)\b|\bnew Date\b|\bprocess\.hrtime\b/;

const isIn = (file, place) => file === place || file.startsWith(`${place}/`);

/** Paths of the .ts files below `root`, relative to it, tests left out: a test may import what it likes. */
function sourceFiles(root) {
  return readdirSync(root, { recursive: true })
    .map((name) => name.split(path.sep).join('/'))
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts') && !name.endsWith('.d.ts'))
    .sort();
}

/** Module specifiers of a file: static, re-exporting, dynamic and `import('…')` types. */
function importsOf(text) {
  return ts.preProcessFile(text, true, true).importedFiles.map((entry) => entry.fileName);
}

function arrowProblem(file, target) {
  const layer = LAYERS.find(({ from }) => isIn(file, from));
  if (!layer) return `${file}: is in no layer; add its folder to LAYERS in scripts/check-layers.mjs`;
  const home = file.includes('/') ? file.split('/')[0] : file;
  if (isIn(target, home)) return null;
  const forbidden = layer.except?.some((place) => isIn(target, place)) ?? false;
  if (!forbidden && layer.to.some((place) => place === '*' || isIn(target, place))) return null;
  return `${file}: imports ${target}, but ${layer.from} may import only: ${describe(layer)}`;
}

function describe(layer) {
  const except = layer.except ? ` except ${layer.except.join(', ')}` : '';
  return (layer.to.join(', ').replace('*', 'everything') || 'nothing') + except;
}

function packageProblem(file, specifier) {
  const owner = Object.entries(PACKAGE_OWNERS).find(([name]) => isIn(specifier, name))?.[1];
  return owner && !isIn(file, owner) ? `${file}: imports ${specifier}, which is for ${owner}/ alone` : null;
}

function clockProblems(file, text) {
  const code = text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ''))
    .replace(/\/\/.*$/gm, '');
  return code.split('\n').flatMap((line, i) => {
    const use = CLOCK_USE.exec(line);
    return use ? [`${file}:${i + 1}: uses ${use[0]}; take the time from the engine's Clock`] : [];
  });
}

/** Every circle that a depth-first walk closes, as `a → b → a`. */
function cycleProblems(graph) {
  const problems = [];
  const state = new Map(); // 'open' while on the path, then 'done'
  const trail = [];
  const visit = (file) => {
    state.set(file, 'open');
    trail.push(file);
    for (const target of graph.get(file) ?? []) {
      if (state.get(target) === 'open')
        problems.push(`cycle: ${[...trail.slice(trail.indexOf(target)), target].join(' → ')}`);
      else if (!state.has(target)) visit(target);
    }
    trail.pop();
    state.set(file, 'done');
  };
  for (const file of graph.keys()) if (!state.has(file)) visit(file);
  return problems;
}

function checkFile(root, file, targets) {
  const text = readFileSync(path.join(root, file), 'utf8');
  const problems = CLOCKLESS.includes(file) ? clockProblems(file, text) : [];
  for (const specifier of importsOf(text)) {
    if (!specifier.startsWith('.')) {
      problems.push(packageProblem(file, specifier));
      continue;
    }
    const target = path.posix.normalize(path.posix.join(path.posix.dirname(file), specifier));
    if (target.startsWith('../')) continue; // package.json and the like
    if (!existsSync(path.join(root, target)))
      problems.push(`${file}: imports ${target}, which does not exist`);
    targets.push(target);
    problems.push(arrowProblem(file, target));
  }
  return problems.filter((problem) => problem !== null);
}

/** Problems of the tree below `root`, a folder laid out as src/ is. */
export function checkLayers(root) {
  const graph = new Map(sourceFiles(root).map((file) => [file, []]));
  const problems = [...graph].flatMap(([file, targets]) => checkFile(root, file, targets));
  return { numFiles: graph.size, problems: [...problems, ...cycleProblems(graph)] };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = process.argv[2] ?? fileURLToPath(new URL('../src', import.meta.url));
  const { numFiles, problems } = checkLayers(root);
  for (const problem of problems) console.error(problem);
  console.log(`${numFiles} files, ${problems.length} layering problem${problems.length === 1 ? '' : 's'}`);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
