import { describe, expect, test } from 'vitest';
import { compileRequest, TINY_GPT2, TINY_LLAMA } from '../../../test/support/compile.ts';
import type { Graph } from '../../ir/graph.ts';
import type { HFConfig } from '../../models/model-definition.ts';
import type { TensorCatalog } from '../../tensor/tensor-source.ts';
import { compile } from '../compile.ts';

type Catalog = Map<string, NonNullable<ReturnType<TensorCatalog['get']>>>;

function definitionGraph(config: HFConfig): Graph {
  const { definition, maxModelLen } = compileRequest(config);
  return definition.buildGraph(config, { kvDType: 'float32', maxModelLen });
}

/** What a checkpoint of that config holds. */
function catalogOf(config: HFConfig): Catalog {
  const parts = definitionGraph(config).parameters.flatMap((parameter) => parameter.parts);
  return new Map(parts.map((part) => [part.tensor, { dtype: 'bfloat16', shape: part.tensorShape }]));
}

function boundNames(config: HFConfig, tensors: Catalog): string[] {
  const plan = compile(compileRequest(config, { tensors }));
  return plan.weights.flatMap((weight) => weight.parts.map((part) => part.tensor));
}

const bfloat16 = (...shape: number[]) => ({ dtype: 'bfloat16', shape }) as const;

describe('bindTensors', () => {
  test('takes tensors under their canonical names', () => {
    const tensors = catalogOf(TINY_LLAMA);
    expect(new Set(boundNames(TINY_LLAMA, tensors))).toEqual(new Set(tensors.keys()));
  });

  test('takes a tensor under another published name', () => {
    const tensors: Catalog = new Map(
      [...catalogOf(TINY_GPT2)].map(([name, tensor]) => [name.replace('transformer.', ''), tensor]),
    );
    expect(boundNames(TINY_GPT2, tensors)).toContain('h.0.attn.c_attn.weight');
  });

  test('a tied head may be stored all the same, or in place of the embedding', () => {
    const tensors = catalogOf(TINY_LLAMA);
    const table = tensors.get('model.embed_tokens.weight')!;
    tensors.set('lm_head.weight', table);
    expect(boundNames(TINY_LLAMA, tensors)).not.toContain('lm_head.weight');
    tensors.delete('model.embed_tokens.weight');
    expect(boundNames(TINY_LLAMA, tensors)).toContain('lm_head.weight');
  });

  test('the head of an untied model is no stand-in for its embedding', () => {
    const config = { ...TINY_LLAMA, tie_word_embeddings: false };
    const tensors = catalogOf(config);
    tensors.delete('model.embed_tokens.weight');
    expect(() => boundNames(config, tensors)).toThrow(
      /1 tensor missing:\n {2}model\.embed_tokens\.weight \[96, 32\](?!.*lm_head)/,
    );
  });

  test('buffers of old checkpoints are ignored', () => {
    const tensors = catalogOf(TINY_LLAMA);
    tensors.set('model.layers.0.self_attn.rotary_emb.inv_freq', bfloat16(4));
    expect(boundNames(TINY_LLAMA, tensors)).not.toContain('model.layers.0.self_attn.rotary_emb.inv_freq');
  });

  test('a missing tensor is named, with every name that was tried', () => {
    const tensors = catalogOf(TINY_GPT2);
    tensors.delete('transformer.h.1.ln_2.bias');
    expect(() => boundNames(TINY_GPT2, tensors)).toThrow(
      /tensors do not fit its config.json .*gpt2.*\n1 tensor missing:\n {2}transformer\.h\.1\.ln_2\.bias \[32\], nor as h\.1\.ln_2\.bias/,
    );
  });

  test('a tensor that several weights are cut from is reported once', () => {
    const tensors = catalogOf(TINY_GPT2);
    tensors.delete('transformer.h.0.attn.c_attn.weight');
    expect(() => boundNames(TINY_GPT2, tensors)).toThrow(
      /1 tensor missing:\n {2}transformer.h.0.attn.c_attn.weight \[32, 96\]/,
    );
  });

  test('a wrong shape shows both shapes', () => {
    const tensors = catalogOf(TINY_LLAMA);
    tensors.set('model.layers.0.mlp.up_proj.weight', bfloat16(48, 31));
    expect(() => boundNames(TINY_LLAMA, tensors)).toThrow(
      /1 tensor of another shape:\n {2}model\.layers\.0\.mlp\.up_proj\.weight: \[48, 31\], the config asks for \[48, 32\]/,
    );
  });

  test('tensors that the model does not know are refused: a result without them would be wrong', () => {
    const tensors = catalogOf(TINY_LLAMA);
    for (let i = 0; i < 8; i++) tensors.set(`model.layers.${i}.extra.weight`, bfloat16(1));
    expect(() => boundNames(TINY_LLAMA, tensors)).toThrow(
      /8 tensors unknown to the model:\n {2}model\.layers\.0\.extra\.weight\n[^]*… and 3 more/,
    );
  });
});
