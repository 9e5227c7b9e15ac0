// Errors of quantized weights: what is reported, against what the formats promise.
import { describe, expect, it } from 'vitest';
import { errorPlot } from './error-plot.ts';
import { errorCurves } from './weight-errors.ts';

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
