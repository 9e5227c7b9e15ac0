// POST /v1/completions: one prompt or several, as texts or token ids.
import type { FastifyInstance } from 'fastify';
import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { GenerateParams } from '../../llm/generate-params.ts';
import type { LLM } from '../../llm/llm.ts';
import { parseOrThrow } from '../../llm/parse.ts';
import type { GenerationJob } from '../../llm/resolve.ts';
import { NeedletailError } from '../../util/errors.ts';
import { CompletionFormat } from '../completion-format.ts';
import type { ServerContext } from '../context.ts';
import { LogprobsFormat } from '../logprobs-format.ts';
import { completionRequest } from '../protocol.ts';
import type { PromptInput } from '../protocol-values.ts';
import { checkModel, completionParams } from '../request-params.ts';
import { exchangeOf, serveGeneration } from '../serve-generation.ts';

/** Choices of one request over all of its prompts. */
const MAX_CHOICES = 2048;

export function addCompletionRoute(app: FastifyInstance, context: ServerContext): void {
  app.post('/v1/completions', async ({ body }, reply) => {
    const exchange = exchangeOf(context, reply);
    const request = parseOrThrow(completionRequest, body);
    const model = checkModel(request.model, context.servedModelNames);
    checkNumChoices(request.prompt.length, request.n ?? 1);
    const params = completionParams(request);
    const jobs = await prepareAll(context.llm, request.prompt, params);
    const logprobs = new LogprobsFormat(context.llm.tokenizer, request);
    const envelope = { id: `cmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model };
    // Without a tokenizer the ids are all that there is to return.
    const return_token_ids = request.return_token_ids ?? context.llm.tokenizer === null;
    const format = new CompletionFormat(envelope, { ...request, return_token_ids }, jobs, logprobs);
    return serveGeneration(exchange, jobs, format, request.stream === true);
  });
}

/** One after the other: thousands of short texts tokenized at once would hold up everyone's streams. */
async function prepareAll(
  llm: LLM,
  prompts: readonly PromptInput[],
  params: GenerateParams,
): Promise<GenerationJob[]> {
  const jobs: GenerationJob[] = [];
  for (const prompt of prompts) {
    if (jobs.length > 0) await nextTurn();
    jobs.push(await llm.prepare(toPrompt(prompt), params));
  }
  return jobs;
}

function toPrompt(prompt: PromptInput) {
  return typeof prompt === 'string' ? prompt : { promptTokenIds: prompt };
}

function checkNumChoices(numPrompts: number, n: number): void {
  if (numPrompts * n <= MAX_CHOICES) return;
  const message = `${numPrompts} prompts with ${n} choices each are more than ${MAX_CHOICES}; send them in several requests`;
  throw new NeedletailError('invalid_request', message, { param: 'n' });
}
