// What the engine's process and its parent say to each other, as frames.
import { NeedletailError, type ErrorCode } from '../../util/errors.ts';
import type { EngineConfig } from '../config.ts';
import type { EngineInfo, EngineRequest } from '../protocol.ts';
import type { SamplingParams } from '../sampling-params.ts';
import { type FrameWriter, PayloadReader } from './frames.ts';

/** Types of frames; those from the parent come first. */
export const MESSAGE = {
  load: 1,
  request: 2,
  abort: 3,
  close: 4,
  progress: 16,
  ready: 17,
  loadFailed: 18,
  refused: 19,
  step: 20,
} as const;

/** All choices of the request. */
const ALL = -1;

export interface LoadProgress {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
}

export interface LoadMessage {
  readonly config: EngineConfig;
  /** Longest time that outputs are held back; 0: none is. */
  readonly streamIntervalMs: number;
}

export function writeLoad(writer: FrameWriter, message: LoadMessage): Buffer {
  return writer.begin(MESSAGE.load).json(message).end();
}

export function readLoad(payload: Buffer): LoadMessage {
  return new PayloadReader(payload).json() as LoadMessage;
}

/** `handle` stands for the request from here on; the parent never uses one twice. */
export function writeRequest(writer: FrameWriter, handle: number, request: EngineRequest): Buffer {
  const { promptTokenIds, sampling, ...rest } = request;
  const { logitBias, seed, ...parameters } = sampling;
  writer.begin(MESSAGE.request).uint32(handle);
  writer.json({ ...rest, parameters: { ...parameters, seed: String(seed) } });
  // JSON knows no infinity, and a bias may be −∞.
  writer.uint32(logitBias.length);
  for (const { tokenId, bias } of logitBias) writer.int32(tokenId).float64(bias);
  return writer.int32s(promptTokenIds).end();
}

export function readRequest(payload: Buffer): { handle: number; request: EngineRequest } {
  const reader = new PayloadReader(payload);
  const handle = reader.uint32();
  const { parameters, ...rest } = reader.json() as Omit<EngineRequest, 'promptTokenIds' | 'sampling'> & {
    readonly parameters: Omit<SamplingParams, 'seed' | 'logitBias'> & { readonly seed: string };
  };
  const logitBias = Array.from({ length: reader.uint32() }, () => ({
    tokenId: reader.int32(),
    bias: reader.float64(),
  }));
  const sampling = { ...parameters, seed: BigInt(parameters.seed), logitBias };
  return { handle, request: { ...rest, sampling, promptTokenIds: reader.int32s() } };
}

export function writeAbort(writer: FrameWriter, handle: number, index: number | undefined): Buffer {
  return writer
    .begin(MESSAGE.abort)
    .uint32(handle)
    .int32(index ?? ALL)
    .end();
}

export function readAbort(payload: Buffer): { handle: number; index: number | undefined } {
  const reader = new PayloadReader(payload);
  const handle = reader.uint32();
  const index = reader.int32();
  return { handle, index: index === ALL ? undefined : index };
}

export function writeClose(writer: FrameWriter): Buffer {
  return writer.begin(MESSAGE.close).end();
}

export function writeProgress(writer: FrameWriter, { stage, done, total }: LoadProgress): Buffer {
  return writer.begin(MESSAGE.progress).string(stage).float64(done).float64(total).end();
}

export function readProgress(payload: Buffer): LoadProgress {
  const reader = new PayloadReader(payload);
  return { stage: reader.string(), done: reader.float64(), total: reader.float64() };
}

export function writeReady(writer: FrameWriter, info: EngineInfo): Buffer {
  return writer.begin(MESSAGE.ready).json(info).end();
}

export function readReady(payload: Buffer): EngineInfo {
  return new PayloadReader(payload).json() as EngineInfo;
}

export function writeLoadFailed(writer: FrameWriter, error: NeedletailError): Buffer {
  return writeError(writer.begin(MESSAGE.loadFailed), error).end();
}

export function readLoadFailed(payload: Buffer): NeedletailError {
  return readError(new PayloadReader(payload));
}

export function writeRefused(writer: FrameWriter, handle: number, error: NeedletailError): Buffer {
  return writeError(writer.begin(MESSAGE.refused).uint32(handle), error).end();
}

export function readRefused(payload: Buffer): { handle: number; error: NeedletailError } {
  const reader = new PayloadReader(payload);
  return { handle: reader.uint32(), error: readError(reader) };
}

function writeError(writer: FrameWriter, { code, message, param }: NeedletailError): FrameWriter {
  return writer.json({ code, message, param });
}

function readError(reader: PayloadReader): NeedletailError {
  const { code, message, param } = reader.json() as {
    code: ErrorCode;
    message: string;
    param: string | null;
  };
  return new NeedletailError(code, message, param === null ? {} : { param });
}
