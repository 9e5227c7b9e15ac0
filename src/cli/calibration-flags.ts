// The flags of `needletail build` that say how a calibrated recipe learns from a text.
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { CalibrationRequest } from '../eval/calibrate-model.ts';
import type { CalibratedRecipe } from '../quantization/calibrate.ts';
import { GPTQ_OPTIONS } from '../quantization/gptq.ts';
import type { RangeKind } from '../quantization/range-observers.ts';
import type { Quantization } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import { decimalNumber, wholeNumber } from './parsers.ts';

export interface CalibrationFlags {
  readonly quantization?: Quantization;
  readonly loadFormat: 'auto' | 'dummy';
  readonly calibration?: string;
  readonly calibrationTokens?: number;
  readonly calibrationRange?: RangeKind;
  readonly calibrationStages?: number;
  readonly smoothquantAlpha?: number;
  readonly gptqActOrder: boolean;
}

/** As often awq and gptq have a model read the text, at most. */
const DEFAULT_STAGES = 32;

export function addCalibrationFlags(command: Command): Command {
  const options = [
    new Option(
      '--calibration <file>',
      'text, or .json token ids, that awq, gptq, smoothquant and static fp8 learn from',
    ),
    new Option('--calibration-tokens <n>', 'tokens of it to read (default: at most 16384)').argParser(
      wholeNumber(2, 2 ** 24),
    ),
    new Option(
      '--calibration-range <range>',
      "what fp8's static scales cover: absmax (the default), moving, or a percentile such as 99.99",
    ).argParser(rangeKind),
    new Option(
      '--calibration-stages <n>',
      'awq, gptq: parts of the model that are quantized one after the other, each for what it reads from those before (default: at most 32)',
    ).argParser(wholeNumber(1, 2 ** 16)),
    new Option('--smoothquant-alpha <share>', 'instead of a search for each layer').argParser(
      decimalNumber(0, 1),
    ),
    new Option('--no-gptq-act-order', 'columns in their own order, not those of the largest inputs first'),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

/** Null where no calibration is asked for. Throws `invalid_request` for flags that the recipe has no use for. */
export function calibrationRequest(flags: CalibrationFlags): CalibrationRequest | null {
  const { quantization, calibration, calibrationTokens, calibrationRange, smoothquantAlpha } = flags;
  const isStaged = quantization === 'awq' || quantization === 'gptq';
  const given: readonly (readonly [flag: string, isGiven: boolean, fits: boolean])[] = [
    ['calibration-tokens', calibrationTokens !== undefined, true],
    ['calibration-range', calibrationRange !== undefined, quantization === 'fp8'],
    ['calibration-stages', flags.calibrationStages !== undefined, isStaged],
    ['smoothquant-alpha', smoothquantAlpha !== undefined, quantization === 'smoothquant'],
    ['no-gptq-act-order', !flags.gptqActOrder, quantization === 'gptq'],
  ];
  for (const [flag, isGiven, fits] of given) {
    if (!isGiven) continue;
    if (calibration === undefined) throw refused(flag, 'is of no use without --calibration');
    if (!fits)
      throw refused(
        flag,
        `is of no use ${quantization ? `with --quantization ${quantization}` : 'without --quantization'}`,
      );
  }
  if (calibration === undefined) return null;
  if (flags.loadFormat === 'dummy')
    throw refused(
      'calibration',
      'learns from a text what random weights cannot tell: leave out --load-format dummy',
    );
  return { recipe: recipeOf(flags), file: calibration, numTokens: calibrationTokens ?? null };
}

function recipeOf(flags: CalibrationFlags): CalibratedRecipe {
  const { quantization, calibrationRange = 'absmax', smoothquantAlpha = null, gptqActOrder } = flags;
  const { calibrationStages: maxNumStages = DEFAULT_STAGES } = flags;
  switch (quantization) {
    case 'awq':
      return { name: 'awq', maxNumStages };
    case 'gptq':
      return { name: 'gptq', maxNumStages, options: { ...GPTQ_OPTIONS, actOrder: gptqActOrder } };
    case 'smoothquant':
      return { name: 'smoothquant', alpha: smoothquantAlpha };
    case 'fp8':
      return { name: 'fp8', range: calibrationRange };
    default:
      throw refused(
        'calibration',
        'is for --quantization awq, gptq, smoothquant and fp8' +
          (quantization === undefined
            ? ': name one of them'
            : `; ${quantization} learns nothing from a text`),
      );
  }
}

function rangeKind(text: string): RangeKind {
  if (text === 'absmax' || text === 'moving') return text;
  const percentile = text.trim() === '' ? NaN : Number(text);
  if (percentile > 0 && percentile <= 100) return { percentile };
  throw new InvalidArgumentError('Give absmax, moving, or a percentile above 0, such as 99.99.');
}

function refused(flag: string, message: string): NeedletailError {
  return new NeedletailError('invalid_request', `--${flag} ${message}`, { param: flag });
}
