// The worker thread of LongTextEncoder: reads the tokenizer's files once, then answers one text after the other.
import { parentPort, workerData } from 'node:worker_threads';
import { isNeedletailError } from '../util/errors.ts';
import type { EncodeReply, EncodeRequest } from './long-text-encoder.ts';
import { createPromptEncoder } from './prompt-encoder.ts';
import { readTokenizerFiles } from './tokenizer-files.ts';

const { directory } = workerData as { directory: string };
const encoder = createPromptEncoder(await readTokenizerFiles(directory));

parentPort!.on('message', (request: EncodeRequest) => {
  const reply = answer(request);
  parentPort!.postMessage(reply, 'tokenIds' in reply ? [reply.tokenIds.buffer as ArrayBuffer] : []);
});

function answer({ text, form }: EncodeRequest): EncodeReply {
  try {
    return { tokenIds: encoder.encode(text, form) };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { error: { code: isNeedletailError(error) ? error.code : 'invalid_request', message } };
  }
}
