import { expect, test } from 'vitest';
import { compileRequest, panelKernels, TINY_GPT2, TINY_LLAMA } from '../../test/support/compile.ts';
import { compile } from './compile.ts';
import { printKernels, printPlan } from './print-plan.ts';

// A change here is a change of what the compiler makes: look at it before you accept it (`vitest run -u`).
test('the plan of a tiny llama', async () => {
  const plan = compile(compileRequest(TINY_LLAMA, { kernels: panelKernels() }));
  await expect(printPlan(plan)).toMatchFileSnapshot('../../test/golden/tiny-llama.plan.txt');
});

test('the plan of a tiny gpt2', async () => {
  const plan = compile(compileRequest(TINY_GPT2, { kernels: panelKernels() }));
  await expect(printPlan(plan)).toMatchFileSnapshot('../../test/golden/tiny-gpt2.plan.txt');
});

test('kernels are listed with how often they are launched', () => {
  const variants = () => [
    { kernel: 'linear_small', maxRows: 8 },
    { kernel: 'linear_large', maxRows: null },
  ];
  const kernels = panelKernels().map((kernel) => (kernel.op === 'linear' ? { ...kernel, variants } : kernel));
  const text = printKernels(compile(compileRequest(TINY_LLAMA, { kernels })));
  expect(text).toContain('1 × embedding');
  expect(text).toMatch(/5 × linear +by linear_small ≤ 8 \| linear_large × numTokens\n/);
  expect(text).toMatch(/4 × linear +by linear_small ≤ 8 \| linear_large × numLogitRows\n/);
});
