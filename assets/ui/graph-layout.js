/* Pure layout: grid places -> pixels for the width there is, with drawers of units and layers below expanded cards. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const PAD = 14,
    LABEL = 17,
    CELL_W = 128,
    CELL_H = 24,
    CELL_GAP = 4,
    HEAD_H = 28,
    DRAWER_PAD = 10,
    LINE_ROWS = 6;
  const AUTO_LAYERS = 28; // a block with no more layers than this shows them all at once, units open

  // Rungs of a card's fill: the number stands inside the fill at every width.
  const RUNGS = [0.4, 0.46, 0.52, 0.58, 0.64, 0.72, 1];
  QS.fillOf = (graph, bits) => {
    const at = QS.levelBetween(graph, bits),
      low = Math.floor(at),
      span = RUNGS.length - 1;
    const pick = (i) => RUNGS[Math.min(span, Math.round((i * span) / (graph.choices.length - 1)))];
    return pick(low) + (at - low) * (pick(Math.min(graph.choices.length - 1, low + 1)) - pick(low));
  };

  function groupsOf(graph, block, expanded) {
    const units = (graph.children.get(block.id) || []).map((id) => graph.byId.get(id)).filter((card) => card.level === "unit");
    const inUnits = new Set(units.flatMap((unit) => unit.layers));
    const loose = block.layers.filter((name) => !inUnits.has(name));
    const auto = block.layers.length <= AUTO_LAYERS;
    const groups = [];
    for (let i = 0; i < loose.length; i += LINE_ROWS) groups.push({ unit: null, layers: loose.slice(i, i + LINE_ROWS) });
    for (const unit of units)
      groups.push({ unit, layers: auto !== expanded.has(unit.id) ? unit.layers : [], open: auto !== expanded.has(unit.id) });
    return groups;
  }

  // Columns of cells, wrapped to the width; positions are relative to the drawer.
  function drawerOf(graph, block, expanded, width) {
    const fit = Math.max(1, Math.floor((width - 2 * DRAWER_PAD + CELL_GAP) / (CELL_W + CELL_GAP)));
    const groups = groupsOf(graph, block, expanded),
      cells = [];
    let column = 0,
      top = DRAWER_PAD,
      deepest = 0,
      widest = 0;
    for (const group of groups) {
      if (column === fit) {
        column = 0;
        top += deepest + CELL_GAP + 4;
        deepest = 0;
      }
      const x = DRAWER_PAD + column * (CELL_W + CELL_GAP);
      let y = top;
      if (group.unit) {
        cells.push({
          id: group.unit.id,
          unit: group.unit,
          open: group.open,
          label: group.unit.short,
          x,
          y,
          w: CELL_W,
          h: HEAD_H,
        });
        y += HEAD_H + CELL_GAP;
      }
      const inside = group.unit && group.unit.id.startsWith(`${block.id}.`) ? `${group.unit.id.slice(block.id.length + 1)}.` : "";
      for (const name of group.layers) {
        const { label } = graph.layers[name];
        cells.push({
          id: name,
          layer: graph.layers[name],
          label: inside && label.startsWith(inside) ? label.slice(inside.length) : label,
          x,
          y,
          w: CELL_W,
          h: CELL_H,
        });
        y += CELL_H + CELL_GAP;
      }
      deepest = Math.max(deepest, y - CELL_GAP - top);
      column += 1;
      widest = Math.max(widest, column);
    }
    return { block: block.id, cells, w: 2 * DRAWER_PAD + widest * (CELL_W + CELL_GAP) - CELL_GAP, h: top + deepest + DRAWER_PAD };
  }

  // Drawers of one row: side by side where they fit, else below each other.
  function placeDrawers(drawers, left, right, top) {
    const lines = [];
    for (const drawer of drawers) {
      drawer.x = QS.clamp(drawer.anchor - drawer.w / 2, left, Math.max(left, right - drawer.w));
      let line = lines.find((other) => other.every((d) => drawer.x > d.x + d.w + 8 || d.x > drawer.x + drawer.w + 8));
      if (!line) lines.push((line = []));
      line.push(drawer);
    }
    let y = top;
    for (const line of lines) {
      for (const drawer of line) drawer.y = y;
      y += Math.max(...line.map((d) => d.h)) + 10;
    }
    return y - top;
  }

  function stageBoxes(graph, folded, boxes, metrics) {
    const found = [];
    for (const stage of graph.stages) {
      if (folded.has(stage.id)) continue;
      const rows = new Map();
      for (const id of graph.children.get(stage.id)) {
        const box = boxes.get(id);
        if (box && !box.cell) rows.set(box.row, [...(rows.get(box.row) || []), box]);
      }
      const parts = [...rows.values()].sort((a, b) => a[0].y - b[0].y),
        count = parts.reduce((sum, row) => sum + row.length, 0);
      const titled = parts.find((row) => row.length > 1) || parts[0];
      for (const row of parts) {
        const x = Math.min(...row.map((b) => b.x)),
          right = Math.max(...row.map((b) => b.x + b.w));
        found.push({
          id: stage.id,
          title: row === titled && count > 1 ? stage.label : "",
          label: stage.label,
          x: x - 5,
          y: row[0].y - 7,
          w: right - x + 10,
          h: metrics.cardH + LABEL + 12,
        });
      }
    }
    return found;
  }

  QS.layout = (graph, { expanded, folded, width, height }) => {
    const skips = graph.edges.some((edge) => edge[2] === "skip"),
      top = skips ? 40 : 28;
    const pitchX = QS.clamp((width - 2 * PAD) / graph.columns, 60, 108);
    const pitchY = QS.clamp((height - top - PAD + 18) / graph.rows, 92, 132);
    const metrics = { cardW: Math.min(84, pitchX - 10), cardH: Math.min(72, pitchY - LABEL - 30), pitchX, pitchY };
    const hidden = (card) =>
      graph.children.has(card.parent) && folded.has(card.parent) && graph.byId.get(card.parent)?.level === "stage";
    const shown = graph.blocks.filter((card) => !hidden(card)).map((card) => ({ card, x: card.x, y: card.y, span: 1 }));
    for (const stage of graph.stages) {
      if (!folded.has(stage.id)) continue;
      const inside = graph.children
        .get(stage.id)
        .map((id) => graph.byId.get(id))
        .filter((card) => card.level === "block");
      const row = Math.min(...inside.map((card) => card.y)),
        here = inside.filter((card) => card.y === row);
      const start = Math.min(...here.map((card) => card.x));
      shown.push({ card: stage, x: start, y: row, span: Math.max(...here.map((card) => card.x)) - start + 1 });
    }
    const left = PAD,
      sceneWidth = Math.max(graph.columns * pitchX, 1),
      boxes = new Map(),
      drawers = [],
      cells = [];
    let y = top,
      deep = 0,
      extra = 0;
    for (const row of [...new Set(graph.blocks.map((card) => card.y))].sort((a, b) => a - b)) {
      const here = shown.filter((item) => item.y === row);
      if (!here.length) continue;
      const open = [];
      for (const item of here) {
        const w = item.span === 1 ? metrics.cardW : item.span * pitchX - (pitchX - metrics.cardW);
        const box = {
          id: item.card.id,
          card: item.card,
          row,
          x: left + item.x * pitchX + (pitchX - metrics.cardW) / 2,
          y,
          w,
          h: metrics.cardH,
        };
        boxes.set(item.card.id, box);
        if (item.card.level === "block" && expanded.has(item.card.id)) {
          const drawer = drawerOf(graph, item.card, expanded, Math.max(sceneWidth, width - 2 * PAD));
          open.push(Object.assign(drawer, { anchor: box.x + w / 2, from: y + metrics.cardH + LABEL }));
        }
      }
      deep = placeDrawers(open, left, left + Math.max(sceneWidth, width - 2 * PAD), y + metrics.cardH + LABEL + 12);
      for (const drawer of open) {
        drawers.push(drawer);
        for (const cell of drawer.cells) {
          cell.x += drawer.x;
          cell.y += drawer.y;
          cell.block = drawer.block;
          cells.push(cell);
        }
      }
      deep += deep ? 8 : 0;
      extra += deep;
      y += pitchY + deep;
    }
    const bottom = y - pitchY + metrics.cardH + LABEL + PAD + (deep ? 12 : 0),
      right = Math.max(left + sceneWidth, ...drawers.map((d) => d.x + d.w));
    const out = {
      metrics,
      boxes,
      cells,
      drawers,
      width: right + PAD,
      height: bottom,
      plain: { width: left + sceneWidth + PAD, height: bottom - extra },
      stages: stageBoxes(graph, folded, boxes, metrics),
    };
    out.edges = QS.routes(graph, boxes);
    return out;
  };
  QS.labelHeight = LABEL;
})();
