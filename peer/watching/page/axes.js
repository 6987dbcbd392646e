// Numbers for people, and the ticks of axes.

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

export function power(exponent) {
  const digits = String(Math.abs(exponent)).split("").map((digit) => SUPERSCRIPTS[digit]).join("");
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

// Four significant digits; very small and very large numbers with an exponent.
export function shown(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return minus(trimmed(value.toPrecision(digits)));
  const [mantissa, exponent] = value.toExponential(Math.min(digits, 3) - 1).split("e");
  return minus(`${mantissa}e${Number(exponent)}`);
}

function trimmed(text) {
  return text.includes("e") ? String(Number(text)) : text;
}

function minus(text) {
  return text.replaceAll("-", "−");
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  for (const [size, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${value} B`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 100) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 6000) return `${Math.floor(value / 60)} min ${String(Math.floor(value % 60)).padStart(2, "0")} s`;
  return `${Math.floor(value / 3600)} h ${String(Math.floor(value / 60 % 60)).padStart(2, "0")} min`;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// Ticks of a logarithmic axis, about as many as there is room for: powers of ten; 1, 2, 5; or plain steps.
export function logTicks(low, high, room) {
  const decades = Math.log10(high / low);
  if (!(low > 0) || !Number.isFinite(decades)) return [];
  const found = [];
  if (decades > 0.9) {
    const factors = decades * 3 <= room + 2 ? [1, 2, 5] : decades * 2 <= room + 1 ? [1, 3] : [1];
    const stride = Math.max(1, Math.ceil(decades / room));
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      if (e % stride) continue;
      for (const factor of factors) found.push(Number(`${factor}e${e}`));
    }
  } else {
    const raw = (high - low) / Math.max(2, room);
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * size).find((step) => step >= raw);
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(12)));
  }
  return found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

export function tick(value) {
  if (value === 0) return "0";
  const exponent = Math.log10(Math.abs(value));
  if (Math.abs(exponent) > 3.5) {
    const whole = Math.floor(exponent + 1e-9);
    const factor = Number((value / 10 ** whole).toPrecision(3));
    return factor === 1 ? power(whole) : `${factor}·${power(whole)}`;
  }
  return minus(String(Number(value.toPrecision(6))));
}
