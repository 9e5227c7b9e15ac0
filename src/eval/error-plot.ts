// Error curves as an SVG: both axes logarithmic, one line for each format.
import type { ErrorCurve } from './weight-errors.ts';

const [WIDTH, HEIGHT, MARGIN, LEGEND] = [720, 440, 64, 220];
/** Distinct for people who see colours differently (Okabe and Ito, 2008). */
const COLORS = ['#000000', '#e69f00', '#56b4e9', '#009e73', '#d55e00', '#cc79a7'];

interface Axis {
  readonly min: number;
  readonly max: number;
  /** Where a value lies, in pixels. */
  place(value: number): number;
}

export function errorPlot(title: string, curves: readonly ErrorCurve[]): string {
  const points = curves.flatMap((curve) => curve.points.filter(({ error }) => error > 0));
  const x = axis(
    points.map(({ magnitude }) => magnitude),
    MARGIN,
    WIDTH - MARGIN,
  );
  const y = axis(
    points.map(({ error }) => error),
    HEIGHT - MARGIN,
    MARGIN,
  );
  const lines = curves.map(({ format, points: all }, i) => {
    const path = all
      .filter(({ error }) => error > 0)
      .map(({ magnitude, error }) => `${x.place(magnitude).toFixed(1)},${y.place(error).toFixed(1)}`);
    const color = COLORS[i % COLORS.length];
    const at = MARGIN + 20 * i;
    return [
      `<polyline fill="none" stroke="${color}" stroke-width="2" points="${path.join(' ')}"/>`,
      `<line x1="${WIDTH - 40}" x2="${WIDTH - 16}" y1="${at}" y2="${at}" stroke="${color}" stroke-width="2"/>`,
      text(WIDTH - 10, at + 4, format),
    ].join('\n');
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH + LEGEND} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    text(MARGIN, 28, title),
    text(WIDTH / 2 - 40, HEIGHT - 16, 'magnitude of the value'),
    text(8, 46, 'root mean square error'),
    ...decades(x).map((value) => text(x.place(value) - 12, HEIGHT - MARGIN + 20, value.toExponential(0))),
    ...decades(y).map((value) => text(16, y.place(value) + 4, value.toExponential(0))),
    ...decades(x).map((value) => grid(x.place(value), x.place(value), MARGIN, HEIGHT - MARGIN)),
    ...decades(y).map((value) => grid(MARGIN, WIDTH - MARGIN, y.place(value), y.place(value))),
    ...lines,
    '</svg>\n',
  ].join('\n');
}

/** Whole decades around the values, laid out from `start` to `end`. */
function axis(values: readonly number[], start: number, end: number): Axis {
  const logs = values.map(Math.log10);
  const min = Math.floor(Math.min(...logs));
  const max = Math.max(min + 1, Math.ceil(Math.max(...logs)));
  const place = (value: number) => start + ((Math.log10(value) - min) / (max - min)) * (end - start);
  return { min, max, place };
}

function decades({ min, max }: Axis): readonly number[] {
  return Array.from({ length: max - min + 1 }, (_, i) => 10 ** (min + i));
}

function grid(x1: number, x2: number, y1: number, y2: number): string {
  return `<line x1="${x1}" x2="${x2}" y1="${y1}" y2="${y2}" stroke="#dddddd"/>`;
}

function text(x: number, y: number, words: string): string {
  const escaped = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x}" y="${y}">${escaped}</text>`;
}
