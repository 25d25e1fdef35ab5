/* Pure routing: flow as short lines and rounded returns between rows, skips as arcs above the cards; conditions have no path. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const R = 7,
    SIDE = 9;

  // A polyline with rounded corners.
  function rounded(points) {
    let path = `M${points[0][0]},${points[0][1]}`;
    for (let i = 1; i < points.length; i++) {
      const [x, y] = points[i];
      if (i === points.length - 1) {
        path += `L${x},${y}`;
        break;
      }
      const [px, py] = points[i - 1],
        [nx, ny] = points[i + 1];
      const before = Math.hypot(x - px, y - py),
        after = Math.hypot(nx - x, ny - y),
        r = Math.min(R, before / 2, after / 2);
      if (!before || !after) continue;
      path += `L${x - ((x - px) / before) * r},${y - ((y - py) / before) * r}Q${x},${y} ${x + ((nx - x) / after) * r},${y + ((ny - y) / after) * r}`;
    }
    return path;
  }

  function arc(a, b) {
    const ax = a.x + a.w / 2,
      bx = b.x + b.w / 2,
      span = Math.abs(bx - ax);
    if (a.row === b.row) {
      const rise = QS.clamp(10 + span * 0.045, 14, 42);
      return `M${ax},${a.y}C${ax + Math.sign(bx - ax) * span * 0.08},${a.y - rise} ${bx - Math.sign(bx - ax) * span * 0.08},${b.y - rise} ${bx},${b.y}`;
    }
    // To another row: down through the gap between the arms, then along the free lane above the target.
    const side = bx > ax ? a.x + a.w : a.x,
      way = Math.sign(bx - ax);
    return `M${side},${a.y + a.h * 0.3}C${side + way * 42},${b.y - 34} ${bx - way * Math.min(90, span * 0.4)},${b.y - 26} ${bx},${b.y}`;
  }

  function flow(a, b, between) {
    const ay = a.y + a.h / 2,
      by = b.y + b.h / 2,
      start = a.x + a.w,
      end = b.x;
    if (a.row === b.row && end >= start) {
      if (!between) return `M${start},${ay}L${end},${by}`;
      const ax = a.x + a.w * 0.7,
        bx = b.x + b.w * 0.3;
      return `M${ax},${a.y}C${ax},${a.y - 22} ${bx},${b.y - 22} ${bx},${b.y}`;
    }
    const out = start + SIDE,
      into = end - SIDE;
    if (into >= out) {
      // to the right and up or down: one step half-way
      return rounded([
        [start, ay],
        [out, ay],
        [out, by],
        [end, by],
      ]);
    }
    const upper = ay < by ? a : b;
    const lane = upper.y + upper.h + QS.labelHeight + 9;
    return rounded([
      [start, ay],
      [out, ay],
      [out, lane],
      [into, lane],
      [into, by],
      [end, by],
    ]);
  }

  // Every edge between what is shown; ends inside a folded stage move to the stage's card.
  QS.routes = (graph, boxes) => {
    const shownAs = (id) => {
      for (let at = id; at; at = graph.byId.get(at)?.parent) if (boxes.has(at)) return at;
      return null;
    };
    const rows = new Map(),
      seen = new Set(),
      found = [];
    for (const box of boxes.values()) rows.set(box.row, [...(rows.get(box.row) || []), box]);
    for (const [source, target, kind] of graph.edges) {
      const a = shownAs(source),
        b = shownAs(target),
        key = `${a} ${b} ${kind}`;
      if (!a || !b || a === b || seen.has(key)) continue;
      seen.add(key);
      const from = boxes.get(a),
        to = boxes.get(b);
      const between = from.row === to.row && rows.get(from.row).some((box) => box.x > from.x + 1 && box.x < to.x - 1);
      const d = kind === "flow" ? flow(from, to, between) : kind === "skip" ? arc(from, to) : null;
      found.push({ a, b, kind, d });
    }
    return found;
  };
})();
