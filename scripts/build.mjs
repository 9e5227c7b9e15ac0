// Builds what is out of date: TypeScript into dist/, and the CPU library once per instruction set into native/build/.
// Usage: node scripts/build.mjs [--quiet] [--native-only] [--arch INSTRUCTION_SET]
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const IS_QUIET = process.argv.includes('--quiet');
/** The only instruction set to build for, while kernels are being written. */
const ONLY_ARCH = process.argv.includes('--arch') ? process.argv[process.argv.indexOf('--arch') + 1] : null;

/** Instruction sets per `process.arch`, with the compiler's flags; src/ffi/cpu-library.ts chooses among them. */
const INSTRUCTION_SETS = {
  x64: {
    // Tuned for no processor in particular, GCC spills the sums of the matrix products.
    'x86-64-v3': ['-march=x86-64-v3', '-mtune=haswell'],
    avx512: ['-march=x86-64-v4', '-mprefer-vector-width=512'],
    // Every processor with the bfloat16 instructions has those for int8 too.
    'avx512-bf16': ['-march=x86-64-v4', '-mavx512bf16', '-mavx512vnni', '-mprefer-vector-width=512'],
  },
  arm64: {
    // GCC schedules before it allocates registers, and then spills them.
    neon:
      process.platform === 'darwin'
        ? ['-mcpu=apple-m1']
        : ['-march=armv8.2-a+fp16+dotprod', '-fno-schedule-insns'],
  },
};

const COMPILER = process.env.CXX || 'g++';
const COMMON_FLAGS = [
  '-std=c++17',
  '-O3',
  '-fPIC',
  '-fno-exceptions',
  '-fno-rtti',
  '-fvisibility=hidden',
  '-pthread',
];
const INCLUDES = ['native', 'src/kernels/cpu'];
const STATIC_RUNTIME = process.platform === 'darwin' ? [] : ['-static-libstdc++', '-static-libgcc'];

class BuildError extends Error {}

function log(message) {
  if (!IS_QUIET) console.error(message);
}

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    const output = [];
    child.stdout.on('data', (chunk) => output.push(chunk));
    child.stderr.on('data', (chunk) => output.push(chunk));
    child.on('error', (error) => reject(error.code === 'ENOENT' ? missing(command) : error));
    child.on('close', (code) => {
      const text = Buffer.concat(output).toString();
      if (code === 0) resolve(text);
      else reject(new BuildError(`${command} ${args.join(' ')}\n${text}`));
    });
  });
}

function missing(command) {
  const install =
    process.platform === 'darwin'
      ? 'xcode-select --install'
      : "apt install g++ (or your system's C++ compiler)";
  return new BuildError(
    `${command} not found. needletail compiles its CPU kernels on your machine and needs a C++17 compiler:\n` +
      `  ${install}\nAnother compiler can be named: CXX=clang++ npm run build`,
  );
}

/** Files below `directory` that end in `suffix`, as paths from the root, sorted. */
function filesBelow(directory, suffix) {
  const entries = readdirSync(join(ROOT, directory), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && entry.name.endsWith(suffix))
    .map((entry) => relative(ROOT, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

function hashOf(...parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('hex').slice(0, 16);
}

/** Several builds may run at once: nobody may see a file half written. */
function replaceFile(path, write) {
  const temporary = `${path}.${process.pid}.tmp`;
  return Promise.resolve(write(temporary)).then(() => renameSync(temporary, path));
}

async function buildTypeScript() {
  const sources = filesBelow('src', '.ts').filter((path) => !path.endsWith('.test.ts'));
  const inputs = [...sources, 'tsconfig.json', 'tsconfig.build.json'];
  const stamps = inputs.map((path) => {
    const { mtimeMs, size } = statSync(join(ROOT, path));
    return `${path} ${mtimeMs} ${size}`;
  });
  const key = hashOf(...stamps);
  const stampPath = join(ROOT, 'dist/.build-key');
  if (existsSync(stampPath) && readFileSync(stampPath, 'utf8') === key) return;
  log('tsc -p tsconfig.build.json');
  await run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']);
  await replaceFile(stampPath, (path) => writeFileSync(path, key));
}

/** One compilation per source and instruction set, named by the hash of everything that goes into it. */
function planLibrary(isa, isaFlags, sources, headers) {
  const directory = `native/build/${process.platform}-${process.arch}`;
  const flags = [...COMMON_FLAGS, ...isaFlags, ...INCLUDES.flatMap((include) => ['-I', include])];
  const objects = sources.map(({ path, text }) => {
    const key = hashOf(COMPILER, flags.join(' '), headers, text);
    const stem = path.split('/').at(-1).replace('.cc', '');
    return { path, flags, object: `${directory}/${isa}/${stem}-${key}.o` };
  });
  const key = hashOf(...objects.map(({ object }) => object));
  return { isa, objects, key, library: `${directory}/needletail-cpu-${isa}.so` };
}

function isLinked({ library, key }) {
  const keyPath = join(ROOT, `${library}.key`);
  return existsSync(join(ROOT, library)) && existsSync(keyPath) && readFileSync(keyPath, 'utf8') === key;
}

async function compile({ path, flags, object }) {
  if (existsSync(join(ROOT, object))) return;
  log(`${COMPILER} ${path} → ${object}`);
  mkdirSync(dirname(join(ROOT, object)), { recursive: true });
  await replaceFile(join(ROOT, object), (out) => run(COMPILER, [...flags, '-c', path, '-o', out]));
}

async function link({ library, objects, key }) {
  log(`${COMPILER} → ${library}`);
  const inputs = objects.map(({ object }) => object);
  const flags = ['-shared', '-pthread', ...STATIC_RUNTIME];
  await replaceFile(join(ROOT, library), (out) => run(COMPILER, [...flags, ...inputs, '-o', out]));
  await replaceFile(join(ROOT, `${library}.key`), (out) => writeFileSync(out, key));
}

/** Objects of earlier sources; young ones may belong to a build that is running. */
function removeStaleObjects({ objects }) {
  const directory = dirname(join(ROOT, objects[0].object));
  const current = new Set(objects.map(({ object }) => join(ROOT, object)));
  for (const name of readdirSync(directory)) {
    const path = join(directory, name);
    if (!current.has(path) && statSync(path).mtimeMs < Date.now() - 3_600_000) rmSync(path, { force: true });
  }
}

async function inParallel(tasks, width) {
  const queue = [...tasks];
  const worker = async () => {
    for (let task = queue.shift(); task; task = queue.shift()) await task();
  };
  await Promise.all(Array.from({ length: width }, worker));
}

async function buildNative() {
  if (!['linux', 'darwin'].includes(process.platform)) {
    throw new BuildError(
      `needletail runs on Linux and macOS, not on ${process.platform}. On Windows use WSL.`,
    );
  }
  const instructionSets = INSTRUCTION_SETS[process.arch];
  if (!instructionSets)
    throw new BuildError(`needletail has no kernels for ${process.arch}, only for x64 and arm64.`);
  const read = (path) => readFileSync(join(ROOT, path), 'utf8');
  const find = (suffix) => [...filesBelow('native', suffix), ...filesBelow('src/kernels/cpu', suffix)];
  // Long ones first, so that no compiler is left alone with one at the end.
  const sources = find('.cc')
    .map((path) => ({ path, text: read(path) }))
    .sort((a, b) => b.text.length - a.text.length);
  const headers = find('.h').map(read).join('\0');
  const libraries = Object.entries(instructionSets)
    .filter(([isa]) => ONLY_ARCH === null || isa === ONLY_ARCH)
    .map(([isa, flags]) => planLibrary(isa, flags, sources, headers))
    .filter((library) => !isLinked(library));
  const compilations = libraries.flatMap(({ objects }) => objects.map((object) => () => compile(object)));
  await inParallel(compilations, availableParallelism());
  for (const library of libraries) {
    await link(library);
    removeStaleObjects(library);
  }
}

try {
  await buildNative();
  if (!process.argv.includes('--native-only')) await buildTypeScript();
} catch (error) {
  if (!(error instanceof BuildError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
