/* Keys of the graph: arrows walk, digits and +/- edit, Enter opens, p protects; each key press is one edit. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});

  QS.graphKeys = (root, { store, painter, input, search, toggle, showTable, table, tips, rove }) => {
    let held = 0, // steps of held + and - keys, one edit when they are let go
      stepping = false; // not the same as steps: + and - held together make none

    const focusedId = () => document.activeElement?.closest?.(".qs-graph .node")?.dataset.id || null;
    const targets = () => {
      const id = focusedId();
      return id ? store.meant(id) : [...store.selected];
    };

    function go(id) {
      const node = painter.nodeOf(id);
      if (!node) return;
      rove(id);
      node.g.focus({ preventScroll: true });
      input.reveal(id);
      tips.tipNow(node);
    }

    // Along the flow where there is an edge, else the nearest card in that direction.
    function walk(direction) {
      const from = painter.nodeOf(focusedId());
      if (!from) return go(store.selected.values().next().value || store.graph.blocks[0].id);
      const edges = painter.layout().edges.filter((edge) => edge.kind === "flow");
      if (from.kind === "card" && direction.x) {
        const next = direction.x > 0 ? edges.find((e) => e.a === from.item.id)?.b : edges.find((e) => e.b === from.item.id)?.a;
        if (next) return go(next);
      }
      const center = ({ item }) => ({ x: item.x + item.w / 2, y: item.y + item.h / 2 }),
        here = center(from);
      let best = null;
      for (const node of painter.nodes.values()) {
        const there = center(node),
          dx = there.x - here.x,
          dy = there.y - here.y;
        const along = dx * direction.x + dy * direction.y,
          across = Math.abs(dx * direction.y) + Math.abs(dy * direction.x);
        if (along < 4) continue;
        const cost = along + 2.5 * across;
        if (!best || cost < best.cost) best = { cost, id: node.item.id };
      }
      if (best) go(best.id);
    }

    function edit(work) {
      const ids = targets();
      if (!ids.length) return false;
      const choices = store.editable(ids);
      if (!choices.length) {
        tips.notice(ids[0], "Protected: press p to unlock");
        return true;
      }
      work(choices);
      return true;
    }
    const setTo = (bits) =>
      edit((choices) => {
        store.set(choices, bits);
        store.commit();
      });
    const step = (by) =>
      edit((choices) => {
        held += by;
        stepping = true;
        store.shift(choices, held);
      });
    const endStep = () => {
      if (stepping) {
        held = 0;
        stepping = false;
        store.commit();
      }
    };

    const WALKS = { ArrowRight: { x: 1, y: 0 }, ArrowLeft: { x: -1, y: 0 }, ArrowDown: { x: 0, y: 1 }, ArrowUp: { x: 0, y: -1 } };
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const id = focusedId();
      if (WALKS[event.key]) {
        event.preventDefault();
        endStep();
        walk(WALKS[event.key]);
      } else if (event.key === "Enter" && id) {
        event.preventDefault();
        toggle(id);
      } else if (event.key === " " && id) {
        event.preventDefault();
        store.select([id], event.shiftKey ? "toggle" : "set");
      }
    });
    root.addEventListener("focusout", () => {
      endStep();
      tips.tip(null);
    });
    window.addEventListener("blur", endStep); // the key is let go in another window
    document.addEventListener("keyup", (event) => {
      if ("+=-_".includes(event.key)) endStep();
    });

    const usable = () => store.graph && root.isConnected && root.getClientRects().length + (table.shown() ? 1 : 0) > 0;
    const keys = {
      "/": () => {
        search.input.focus();
        search.input.select();
        return true;
      },
      f: () => {
        input.fit();
        return true;
      },
      t: () => {
        showTable(!table.shown());
        return true;
      },
      p: () => {
        const ids = targets();
        if (ids.length) store.protect(ids);
        return ids.length > 0;
      },
      Escape: () => {
        if (input.cancel()) return true;
        search.clear();
        tips.tip(null);
        store.select([]);
        return true;
      },
      "+": () => step(1),
      "=": () => step(1),
      "-": () => step(-1),
      _: () => step(-1),
    };
    for (const [key, bits] of [
      ["2", 2],
      ["3", 3],
      ["4", 4],
      ["5", 5],
      ["6", 6],
      ["8", 8],
      ["0", 16],
    ])
      keys[key] = () => setTo(bits);
    for (const [key, work] of Object.entries(keys)) QS.onKey(key, () => usable() && work());
    QS.onKey("ctrl+a", (event) => {
      if (!usable() || !event.target.closest?.(".qs-graph")) return false;
      store.select(store.graph.blocks.map((card) => card.id));
      return true;
    });
  };
})();
