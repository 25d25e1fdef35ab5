/* Colours: places on a ramp, bits as colours, and which ink stands on them. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const hex = (rgb) =>
    "#" +
    rgb
      .map((c) =>
        Math.floor(c + 0.5)
          .toString(16)
          .padStart(2, "0"),
      )
      .join("");
  const mixed = (a, b, part) => hex(channels(a).map((c, i) => c + (channels(b)[i] - c) * part));
  const cache = new Map();

  QS.normalise = (value, low, high, log) => {
    if (log) {
      const floor = Math.max(low, high * 1e-9, 1e-300);
      value = Math.log(Math.max(value, floor));
      low = Math.log(floor);
      high = Math.log(Math.max(high, floor));
    }
    return high <= low ? 0 : QS.clamp((value - low) / (high - low), 0, 1);
  };

  QS.rampColor = (stops, level) => {
    const at = QS.clamp(level, 0, 1);
    for (let i = 1; i < stops.length; i++) {
      if (at <= stops[i][0]) return mixed(stops[i - 1][1], stops[i][1], (at - stops[i - 1][0]) / (stops[i][0] - stops[i - 1][0]));
    }
    return stops[stops.length - 1][1];
  };
  QS.gradient = (stops, angle = "90deg") =>
    `linear-gradient(${angle}, ${stops.map(([at, text]) => `${text} ${100 * at}%`).join(", ")})`;

  // Bits have a table of their own beside the warm ramp; the other ramps are sampled, few bits at the strong end.
  QS.bitColor = (graph, bits, ramp) => {
    const key = `${ramp}:${bits.toFixed(2)}`;
    if (!cache.has(key)) {
      const ladder = graph.choices,
        place = QS.levelBetween(graph, bits),
        low = Math.floor(place),
        high = Math.min(ladder.length - 1, low + 1);
      const plain = (at) =>
        ramp === "ember" || at === ladder.length - 1
          ? graph.bit_colours[ladder[at]]
          : QS.rampColor(graph.ramps[ramp], 1 - at / (ladder.length - 2));
      cache.set(key, mixed(plain(low), plain(high), place - low));
    }
    return cache.get(key);
  };

  // Dark or light ink, whichever reads better (WCAG contrast).
  const light = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const inks = new Map();
  QS.inkOn = (color) => {
    if (!inks.has(color)) {
      const [r, g, b] = channels(color).map(light),
        luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
      inks.set(color, 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.062 ? "#ffffff" : "#14181f");
    }
    return inks.get(color);
  };
})();
