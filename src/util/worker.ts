// Worker threads that start from compiled .js and from .ts sources alike.
import { Worker, type WorkerOptions } from 'node:worker_threads';

/**
 * Runs a module of this package in a worker thread.
 * @param importer `import.meta.url` of the caller, whose extension says what is being run: sources or the build
 * @param name path of the module relative to `importer`, without extension
 */
export function startWorker(importer: string, name: string, options: WorkerOptions = {}): Worker {
  const extension = importer.endsWith('.ts') ? '.ts' : '.js';
  const module = new URL(name + extension, importer);
  if (extension === '.js' || runsTypeScript()) return new Worker(module, options);
  // Node 20 does not apply `--import tsx` to worker threads, so the worker asks tsx itself.
  const bootstrap = `import('tsx/esm/api').then((tsx) => tsx.tsImport(${JSON.stringify(module.href)}, ${JSON.stringify(importer)}))`;
  return new Worker(bootstrap, { ...options, eval: true });
}

function runsTypeScript(): boolean {
  return Boolean((process.features as { typescript?: unknown }).typescript);
}
