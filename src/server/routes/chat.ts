// POST /v1/chat/completions: messages through the model's chat template.
import type { FastifyInstance } from 'fastify';
import { randomUUID } from 'node:crypto';
import type { ChatPromptOptions } from '../../llm/chat.ts';
import { parseOrThrow } from '../../llm/parse.ts';
import { ChatFormat } from '../chat-format.ts';
import type { ServerContext } from '../context.ts';
import { LogprobsFormat } from '../logprobs-format.ts';
import { type ChatRequest, chatRequest, type TokenizeRequest } from '../protocol.ts';
import { chatParams, checkModel } from '../request-params.ts';
import { exchangeOf, serveGeneration } from '../serve-generation.ts';

export function addChatRoute(app: FastifyInstance, context: ServerContext): void {
  app.post('/v1/chat/completions', async ({ body }, reply) => {
    const exchange = exchangeOf(context, reply);
    const request = parseOrThrow(chatRequest, body);
    const model = checkModel(request.model, context.servedModelNames);
    const job = await context.llm.prepareChat(request.messages, chatParams(request), chatOptions(request));
    const logprobs = new LogprobsFormat(context.llm.tokenizer, request);
    const envelope = { id: `chatcmpl-${randomUUID()}`, created: Math.floor(Date.now() / 1000), model };
    const format = new ChatFormat(envelope, request, job, logprobs);
    return serveGeneration(exchange, [job], format, request.stream === true);
  });
}

export function chatOptions(request: ChatRequest | TokenizeRequest): ChatPromptOptions {
  return {
    addGenerationPrompt: request.add_generation_prompt,
    continueFinalMessage: request.continue_final_message,
    templateKwargs: request.chat_template_kwargs,
  };
}
