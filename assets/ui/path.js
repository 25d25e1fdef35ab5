/* The best recipe of any budget in about a millisecond: steps along every layer's lower hull of (bytes, damage), best
   damage per byte first, then what is left is filled greedily. The engine's Lagrangian path, step for step. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});

  // Candidates that no other beats in both bytes and damage, smallest first, damage strictly falling.
  const efficient = (candidates) => {
    const kept = [];
    for (const one of [...candidates].sort((a, b) => a.bytes - b.bytes || a.cost - b.cost))
      if (!kept.length || one.cost < kept[kept.length - 1].cost) kept.push(one);
    return kept;
  };
  const above = (a, b, c) => (b.cost - a.cost) * (c.bytes - a.bytes) >= (c.cost - a.cost) * (b.bytes - a.bytes);
  const hull = (kept) => {
    const corners = [];
    for (const one of kept) {
      while (corners.length >= 2 && above(corners[corners.length - 2], corners[corners.length - 1], one)) corners.pop();
      corners.push(one);
    }
    return corners;
  };

  // graph: tables with bytes per option; costs: {choice: {option: damage}}; pinned: {choice: option}.
  QS.path = (graph, costs, pinned = {}) => {
    const names = Object.keys(costs),
      start = [],
      steps = [],
      flat = [];
    names.forEach((name, unit) => {
      const bytes = graph.layers[name].bytes,
        offered = name in pinned ? { [pinned[name]]: costs[name][pinned[name]] ?? 0 } : costs[name];
      const kept = efficient(Object.entries(offered).map(([option, cost]) => ({ option, cost, bytes: bytes[option] })));
      const corners = hull(kept);
      for (const one of kept) flat.push({ unit, ...one });
      start.push(corners[0]);
      for (let i = 1; i < corners.length; i += 1)
        steps.push({
          unit,
          target: corners[i],
          size: corners[i].bytes - corners[i - 1].bytes,
          saved: corners[i - 1].cost - corners[i].cost,
        });
    });
    steps.sort((a, b) => b.saved / b.size - a.saved / a.size);
    const smallest = start.reduce((sum, one) => sum + one.bytes, 0);

    // The recipe of a budget; null where none is that small.
    const at = (budget) => {
      if (budget < smallest) return null;
      const picks = start.slice();
      let left = budget - smallest;
      for (const step of steps) {
        if (step.size > left) break;
        picks[step.unit] = step.target;
        left -= step.size;
      }
      for (;;) {
        let best = null,
          most = 0;
        for (const one of flat) {
          const saved = picks[one.unit].cost - one.cost;
          if (saved > most && one.bytes - picks[one.unit].bytes <= left) {
            best = one;
            most = saved;
          }
        }
        if (!best) break;
        left -= best.bytes - picks[best.unit].bytes;
        picks[best.unit] = best;
      }
      const options = {};
      let bytes = 0,
        damage = 0;
      names.forEach((name, unit) => {
        options[name] = picks[unit].option;
        bytes += picks[unit].bytes;
        damage += picks[unit].cost;
      });
      return { options, bytes, damage };
    };
    return { at, smallest };
  };

  // Summed damage as quality, higher = better; null where damage is all there is. See explorer/gauge.py.
  const CAP_DB = 60,
    FLOOR = 1e-12,
    STEEPEST = 30;
  QS.quality = (gauge, damage) => {
    if (!gauge || !gauge.title) return null;
    const total = gauge.base + damage;
    if (!gauge.curve) return total <= 10 ** (-CAP_DB / 10) ? CAP_DB : -10 * Math.log10(total);
    const [offset, slope, exponent] = gauge.curve,
      log = Math.log(Math.max(total, 0) + FLOOR),
      z = QS.clamp(exponent * log, -STEEPEST, STEEPEST);
    return offset - slope * log * (Math.abs(z) > 1e-4 ? Math.expm1(z) / z : 1 + z / 2 + (z * z) / 6);
  };
  QS.qualityText = (gauge, damage) => {
    const value = QS.quality(gauge, damage);
    if (value === null) return "";
    const text = Math.abs(value) >= 10 ? value.toFixed(1) : value.toPrecision(3);
    return `≈ ${text}${gauge.unit ? ` ${gauge.unit}` : ""}`;
  };
})();
