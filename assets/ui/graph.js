/* The block graph as one component: bar, SVG, legend and table, wired to the page's edit state. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const el = QS.el;

  QS.mountGraph = (element, { props, trigger, watch }) => {
    const host = element.querySelector(".qs-root"),
      store = QS.store(props.group);
    const root = QS.svg("svg", {
      class: "qs-graph",
      role: "group",
      "aria-label": "Block graph. Arrow keys walk, digits set bits, Enter opens a block.",
    });
    const frame = el("div", { class: "qs-frame" }, root),
      painter = QS.painter(root, store),
      tips = QS.graphTips(frame, painter, store);
    const empty = el("div", { class: "qs-empty", text: "The graph appears here as soon as the model is read." });
    frame.append(empty);
    if (props.height) frame.style.height = typeof props.height === "number" ? `${props.height}px` : props.height;

    const toggle = (id) => {
      const card = store.graph.byId.get(id);
      if (!card) return;
      if (card.level === "stage" && store.graph.children.has(id)) store.fold(id);
      else store.expand(id);
    };
    const input = QS.graphInput(root, painter, store, { tip: tips.tip, ladder: tips.ladder, notice: tips.notice, toggle });
    const search = QS.graphSearch(store, painter),
      table = QS.graphTable(store);
    const tableButton = QS.button("table", "Show as a table (t)", () => showTable(!table.shown()), { "aria-pressed": "false" });
    const showTable = (on) => {
      table.show(on);
      frame.hidden = on;
      tableButton.setAttribute("aria-pressed", String(on));
    };
    const bar = el(
      "div",
      { class: "qs-bar" },
      props.totals === false ? null : QS.totalsStrip(store),
      el("div", { class: "qs-spring" }),
      search.node,
      QS.graphFilter(store),
      el(
        "div",
        { class: "qs-tools" },
        tableButton,
        QS.button("help", "Keys and gestures (?)", () => QS.showHelp()),
      ),
    );
    frame.append(
      el(
        "div",
        { class: "qs-float qs-tools" },
        QS.button("minus", "Zoom out", () => input.zoomBy(1 / 1.25)),
        QS.button("plus", "Zoom in", () => input.zoomBy(1.25)),
        QS.button("fit", "Fit to view (f)", () => input.fit()),
      ),
    );
    host.replaceChildren(bar, frame, table.node, QS.selectionBar(store), QS.legend(store));

    const size = () => ({ width: Math.max(320, root.clientWidth), height: Math.max(200, root.clientHeight) });
    function relayout(refit) {
      if (!store.graph) return;
      const focused = document.activeElement?.closest?.(".node")?.dataset.id;
      painter.build(QS.layout(store.graph, { expanded: store.expanded, folded: store.folded, ...size() }));
      search.run();
      rove(focused);
      if (focused) painter.nodeOf(focused)?.g.focus({ preventScroll: true });
      if (refit) input.fit();
    }

    // One card is in the tab order; arrows move it.
    let current = null;
    function rove(id) {
      const node = painter.nodeOf(id || current || "") || painter.nodes.values().next().value;
      for (const other of painter.nodes.values()) other.g.setAttribute("tabindex", -1);
      if (node) {
        node.g.setAttribute("tabindex", 0);
        current = node.item.id;
      }
    }
    root.addEventListener("focusin", (event) => {
      const node = event.target.closest(".node");
      if (node) {
        rove(node.dataset.id);
        if (node.matches(":focus-visible")) input.reveal(node.dataset.id);
      }
    });

    // Gradio sends the component's value with the next event, whoever triggers it: it must be what the page shows.
    const sync = () => {
      props.value = store.packed();
    };
    store.publisher = (event) => {
      sync();
      trigger(event, {});
    };

    const repaint = QS.framed(() => {
      painter.paint();
      host.dataset.painted = String(Number(host.dataset.painted || 0) + 1);
    });
    store.on("options value", repaint);
    store.on("value", () => {
      painter.mark();
      host.dataset.rev = String(store.rev);
    });
    store.on("select protect", () => painter.mark());
    store.on("hover", () => painter.hover());
    let opened = new Set();
    store.on("layout", () => {
      relayout(false);
      const fresh = [...store.expanded].find((id) => !opened.has(id));
      opened = new Set(store.expanded);
      if (fresh && painter.nodeOf(fresh)) input.reveal(painter.nodeOf(fresh).item.block || fresh);
      else if (!input.view.moved && !store.expanded.size) input.fit();
    });
    store.on("graph", () => {
      tips.forget();
      empty.hidden = Boolean(store.graph);
      relayout(true);
    });

    QS.graphKeys(root, { store, painter, input, search, toggle, showTable, table, tips, rove });
    let last = size();
    new ResizeObserver(
      QS.framed(() => {
        const now = size();
        if (!root.clientWidth || (Math.abs(now.width - last.width) < 2 && Math.abs(now.height - last.height) < 2)) return;
        last = now;
        relayout(!input.view.moved);
      }),
    ).observe(root);

    const read = () => {
      store.takeValue(props.value);
      sync(); // an answer may be partial, or older than what the page shows
    };
    watch("value", read);
    watch("graph", () => {
      store.setGraph(props.graph);
      read();
    });
    store.setGraph(props.graph);
    store.takeValue(props.value);
    Object.assign(host, { qs: { store, painter, input, relayout, sync } });
    host.dataset.ready = "1";
  };
})();
