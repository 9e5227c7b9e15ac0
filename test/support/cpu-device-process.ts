// A process that uses the CPU device and ends in one of several ways; tests look at how it ends. Usage: … HOW
import { compile } from '../../src/compiler/compile.ts';
import { CpuDevice } from '../../src/device/cpu/cpu-device.ts';
import { CPU_KERNELS } from '../../src/kernels/cpu/index.ts';
import { compileRequest } from './compile.ts';
import { loadReference } from './reference-checkpoint.ts';
import { stepBatch } from './step-batch.ts';

const how = process.argv[2];
const { config, catalog, source } = loadReference('llama2');
const device = await CpuDevice.open({ numThreads: 2 });
const limits = { maxNumBatchedTokens: 128, maxNumSeqs: 4, maxNumLogitRows: 128 };
const plan = compile(
  compileRequest(config, { tensors: catalog, target: device.target, kernels: CPU_KERNELS, limits }),
);
const executable = await device.load(plan, source, { numBlocks: [16] });
const tokenIds = Array.from({ length: 100 }, (_, i) => i);
const step = stepBatch([{ tokenIds, numCached: 0, blocks: [1, 2, 3, 4, 5, 6, 7] }], 16);

async function runSteps(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await executable.run(step);
}

switch (how) {
  case 'dispose':
    await runSteps(3);
    await device.dispose();
    console.log('ended');
    break;
  case 'dispose-and-exit':
    await runSteps(3);
    await device.dispose();
    console.log('ended');
    process.exit(0);
    break;
  case 'exit-in-a-step':
    await runSteps(3);
    void executable.run(step);
    console.log('ended');
    process.exit(0);
    break;
  case 'exit-while-loading':
    void device.load(plan, source, { numBlocks: [16] });
    console.log('ended');
    process.exit(0);
    break;
  case 'forget':
    // Idle threads must not keep the process alive; a step in flight must, until it has ended.
    void runSteps(3).then(() => console.log('ended'));
    break;
  case 'throw':
    void executable.run(step);
    console.log('ended');
    throw new Error('as planned');
}
