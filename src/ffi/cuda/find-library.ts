// Finds NVIDIA's libraries where people have them: the loader's path, a toolkit, or the wheels that PyTorch brings.
import { existsSync, readdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import koffi, { type LibraryHandle } from 'koffi';
import { NeedletailError } from '../../util/errors.ts';

export interface FoundLibrary {
  readonly library: LibraryHandle;
  /** A path, or the name alone if the loader found it. */
  readonly path: string;
}

export interface WantedLibrary {
  /** `nvrtc`, `cublasLt`. */
  readonly name: string;
  /** What to install, for people. */
  readonly remedy: string;
}

/** Where virtual environments and distributions keep Python's packages. */
const PYTHON_ROOTS = ['/usr/local', '/usr', '/opt/conda', '/opt/venv'];

/**
 * The newest of `majors` (the driver's own first, for it runs nothing newer) that can be loaded.
 * Throws `unsupported_platform` with the places looked at and what to install.
 */
export function findCudaLibrary({ name, remedy }: WantedLibrary, majors: readonly number[]): FoundLibrary {
  const folders = libraryFolders(process.env);
  for (const major of majors) {
    const file = `lib${name}.so.${major}`;
    const paths = [file, ...folders.map((folder) => join(folder, file)).filter((path) => existsSync(path))];
    for (const path of paths) {
      const library = tryLoad(path);
      if (library) return { library, path };
    }
  }
  const wanted = majors.map((major) => `lib${name}.so.${major}`).join(' or ');
  throw new NeedletailError(
    'unsupported_platform',
    `${wanted} was not found on the loader's path, under CUDA_HOME, /usr/local/cuda or in a Python environment: ${remedy}`,
  );
}

export function tryLoad(path: string): LibraryHandle | null {
  try {
    return koffi.load(path);
  } catch {
    return null;
  }
}

/** Folders that may hold the libraries, likeliest first. */
function libraryFolders(env: NodeJS.ProcessEnv): readonly string[] {
  const toolkits = [env['CUDA_HOME'], env['CUDA_PATH'], ...toolkitFolders()].filter(
    (path) => path !== undefined,
  );
  const inToolkit = toolkits.flatMap((path) => [
    join(path, 'lib64'),
    join(path, 'lib'),
    join(path, 'targets', process.arch === 'arm64' ? 'sbsa-linux' : 'x86_64-linux', 'lib'),
  ]);
  return [...inToolkit, ...wheelFolders(env)].filter((path) => existsSync(path));
}

function toolkitFolders(): string[] {
  return entriesOf('/usr/local')
    .filter((entry) => entry.startsWith('cuda'))
    .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
    .map((entry) => join('/usr/local', entry));
}

/** `site-packages/nvidia/<package>/lib` of every Python environment at hand. */
function wheelFolders(env: NodeJS.ProcessEnv): string[] {
  const nearby = entriesOf('/opt').flatMap((entry) => [join('/opt', entry), join('/opt', entry, '.venv')]);
  const environments = [
    env['VIRTUAL_ENV'],
    env['CONDA_PREFIX'],
    join(homedir(), '.local'),
    ...PYTHON_ROOTS,
    ...nearby,
  ];
  return environments
    .filter((path) => path !== undefined)
    .flatMap((path) => pythonFolders(join(path, 'lib')))
    .flatMap((path) => [join(path, 'site-packages/nvidia'), join(path, 'dist-packages/nvidia')])
    .flatMap((path) => entriesOf(path).map((entry) => join(path, entry, 'lib')));
}

function pythonFolders(folder: string): string[] {
  return entriesOf(folder)
    .filter((entry) => entry.startsWith('python3'))
    .map((entry) => join(folder, entry));
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
