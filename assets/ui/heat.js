/* The difference of two pictures as levels of 255 on a fixed, printed scale. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  // Black through violet and orange to pale yellow: lightness rises steadily (matplotlib's inferno, sampled).
  const STOPS = [
    [0, "#000004"],
    [0.2, "#420a68"],
    [0.4, "#932667"],
    [0.6, "#dd513a"],
    [0.8, "#fca50a"],
    [1, "#fcffa4"],
  ];
  QS.heatStops = STOPS;
  // The full scale at gain 1, 4 and 16; the same for every pair, so that maps can be compared.
  QS.heatTop = (gain) => ({ 1: 255, 4: 64, 16: 16 })[gain];

  let table = null;
  const colors = () =>
    (table ||= Array.from({ length: 256 }, (_, i) => {
      const hex = QS.rampColor(STOPS, i / 255);
      return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    }));

  QS.pixelsOf = (image) => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };

  // Per pixel the largest absolute difference of the three channels, 0..255.
  QS.differenceOf = (a, b) => {
    if (a.width !== b.width || a.height !== b.height) return null;
    const levels = new Uint8ClampedArray(a.width * a.height);
    let sum = 0,
      most = 0;
    for (let i = 0, p = 0; i < levels.length; i++, p += 4) {
      const d = Math.max(
        Math.abs(a.data[p] - b.data[p]),
        Math.abs(a.data[p + 1] - b.data[p + 1]),
        Math.abs(a.data[p + 2] - b.data[p + 2]),
      );
      levels[i] = d;
      sum += d;
      if (d > most) most = d;
    }
    return { levels, width: a.width, height: a.height, mean: sum / levels.length, most };
  };

  QS.paintHeat = (canvas, difference, gain) => {
    canvas.width = difference.width;
    canvas.height = difference.height;
    const context = canvas.getContext("2d"),
      image = context.createImageData(difference.width, difference.height),
      shades = colors(),
      top = QS.heatTop(gain);
    for (let i = 0, p = 0; i < difference.levels.length; i++, p += 4) {
      const shade = shades[Math.min(255, Math.round((difference.levels[i] / top) * 255))];
      image.data[p] = shade[0];
      image.data[p + 1] = shade[1];
      image.data[p + 2] = shade[2];
      image.data[p + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };
})();
