// Errors of quantized weights: what is reported, against what the formats promise.
import { describe, expect, it } from 'vitest';
import type { Plan } from '../compiler/plan.ts';
import { errorPlot } from './error-plot.ts';
import { errorCurves, weightErrors } from './weight-errors.ts';

/** Values of every magnitude from 1e-4 to 1, in rows of 128. */
const columns = 128;
const values = Float32Array.from({ length: 64 * columns }, (_, i) => {
  const magnitude = 10 ** (-4 * ((i * 0.618034) % 1));
  return i % 2 === 0 ? magnitude : -magnitude;
});
const curves = errorCurves(values, columns);
const errorAt = (format: string, magnitude: number): number => {
  const { points } = curves.find((curve) => curve.format.startsWith(format))!;
  const distance = (point: { magnitude: number }) => Math.abs(Math.log(point.magnitude / magnitude));
  return points.toSorted((a, b) => distance(a) - distance(b))[0].error;
};

describe('error curves', () => {
  it('floats err in proportion to the value, whole numbers equally everywhere', () => {
    expect(errorAt('bfloat16', 0.5) / errorAt('bfloat16', 0.005)).toBeCloseTo(100, -2);
    expect(errorAt('int8', 0.5) / errorAt('int8', 0.01)).toBeLessThan(3);
  });

  it('more bits err less', () => {
    for (const magnitude of [0.5, 0.05]) {
      expect(errorAt('int8', magnitude)).toBeLessThan(errorAt('uint4', magnitude));
      expect(errorAt('bfloat16', magnitude)).toBeLessThan(errorAt('float8_e4m3fn, as it is', magnitude));
      expect(errorAt('float8_e4m3fn, as it is', magnitude)).toBeLessThan(errorAt('float8_e5m2', magnitude));
    }
  });

  it('int8 errs by at most half a step of the largest value', () => {
    const { points } = curves.find(({ format }) => format.startsWith('int8'))!;
    for (const { error } of points) expect(error).toBeLessThanOrEqual(0.5 / 127 + 1e-6);
  });

  it('are drawn as one line each, with names that markup cannot break', () => {
    const svg = errorPlot('a <weight> & more', curves);
    expect(svg.match(/<polyline/g)).toHaveLength(curves.length);
    expect(svg).toContain('a &lt;weight> &amp; more');
    expect(svg).not.toContain('NaN');
  });
});

describe('weight errors', () => {
  const spec = {
    name: 'w',
    dtype: 'int8',
    shape: [2, 4],
    layout: 'rowMajor',
    parts: [
      {
        ...{ name: 'w', tensor: 'w', tensorShape: [2, 4], transpose: false },
        ...{ rowStart: 0, rowCount: 2, rowStep: 1, columnStart: 0, columnCount: 4 },
      },
    ],
    quantization: {
      format: { dtype: 'int8', groupSize: null, hasZeros: false },
      holds: 'codes',
      origin: 'quantize',
    },
  };
  const errorsOf = (values: readonly number[]) => {
    const bytes = new Uint8Array(Float32Array.from(values).buffer);
    const source = {
      read: () => ({ dtype: 'float32', shape: [2, 4], bytes }) as const,
      close: () => undefined,
    };
    return [...weightErrors({ weights: [spec] } as unknown as Plan, source)];
  };

  it('are shares of the weight and of its largest element', () => {
    const [{ name, relativeError, largestError }] = errorsOf([127, 0.5, 0, 0, 127, 0, 0, 0]);
    expect(name).toBe('w');
    expect(relativeError).toBeCloseTo(0.5 / Math.hypot(127, 127, 0.5), 6);
    expect(largestError).toBeCloseTo(0.5 / 127, 6);
  });

  it('of numbers that are not finite are refused, not shown as none', () => {
    expect(() => errorsOf([1, 2, 3, NaN, 5, 6, 7, 8])).toThrow('weight w holds NaN or infinite values');
  });
});
