/* Pointer and wheel on the graph: click, box, drag for bits, pan, pinch and zoom. One edit per gesture. */
(function () {
  "use strict";
  const QS = (window.QS = window.QS || {});
  const STEP = 13,
    SLACK = 4,
    MIN_ZOOM = 0.25,
    MAX_ZOOM = 4;

  QS.graphInput = (root, painter, store, ui) => {
    const rubber = QS.svg("rect", { class: "rubber", visibility: "hidden" });
    root.append(rubber);
    const view = { x: 0, y: 0, k: 1 },
      pointers = new Map();
    let act = null,
      pinch = null;

    const apply = () => {
      painter.world.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.k})`);
      if (view.shown !== view.k) root.style.setProperty("--k", (view.shown = view.k).toFixed(3)); // small text grows a little when zoomed out
    };
    const local = (event) => {
      const box = root.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    const toWorld = (p) => ({ x: (p.x - view.x) / view.k, y: (p.y - view.y) / view.k });
    const zoom = (factor, at) => {
      const k = QS.clamp(view.k * factor, MIN_ZOOM, MAX_ZOOM),
        f = k / view.k;
      view.x = at.x - (at.x - view.x) * f;
      view.y = at.y - (at.y - view.y) * f;
      view.k = k;
      view.moved = true;
      apply();
    };
    const center = () => ({ x: root.clientWidth / 2, y: root.clientHeight / 2 });
    const fit = () => {
      const layout = painter.layout();
      if (!layout) return;
      // Open drawers do not count: text keeps its size, and what hangs below is reached by panning.
      const w = root.clientWidth,
        h = root.clientHeight,
        { plain } = layout;
      view.k = QS.clamp(Math.min(w / plain.width, h / plain.height), MIN_ZOOM, 1.3);
      view.x = Math.max(0, (w - plain.width * view.k) / 2);
      view.y = Math.max(0, (h - layout.height * view.k) / 2);
      view.moved = false;
      apply();
    };
    // Move as little as needed to see a card, with its drawer where it has one.
    const reveal = (id) => {
      const node = painter.nodeOf(id),
        drawer = painter.layout()?.drawers.find((one) => one.block === id);
      if (drawer) show({ x: drawer.x, y: drawer.y, w: drawer.w, h: drawer.h });
      if (node) show(node.item);
    };
    const show = ({ x, y, w, h }) => {
      const left = x * view.k + view.x,
        top = y * view.k + view.y;
      if (left < 8) view.x += 8 - left;
      else if (left + w * view.k > root.clientWidth - 8) view.x -= left + w * view.k - root.clientWidth + 8;
      if (top < 8) view.y += 8 - top;
      else if (top + h * view.k > root.clientHeight - 20) view.y -= top + h * view.k - root.clientHeight + 20;
      apply();
    };

    const nodeAt = (event) => event.target.closest && event.target.closest(".node");
    const dragTo = QS.framed(() => {
      if (!act || act.kind !== "bits") return;
      const steps = Math.round((act.from.y - act.last.y) / STEP);
      if (steps !== act.steps) {
        act.steps = steps;
        store.shift(act.choices, steps);
      }
      ui.ladder(act.id, act.last);
    });

    function down(event) {
      if (event.button) return;
      pointers.set(event.pointerId, local(event));
      if (pointers.size === 2) {
        if (act?.kind === "bits") store.abandon();
        act = null;
        ui.ladder(null);
        pinch = pinchOf();
        return;
      }
      const node = nodeAt(event),
        from = local(event);
      if (node && !event.shiftKey && !event.ctrlKey && !event.metaKey)
        act = { kind: "press", id: node.dataset.id, from, last: from };
      else if (event.shiftKey) act = { kind: "maybe-box", id: node ? node.dataset.id : null, from, last: from, add: true };
      else
        act = {
          kind: node ? "toggle" : "maybe-pan",
          id: node ? node.dataset.id : null,
          from,
          last: from,
          start: { ...view },
          stage: event.target.closest("[data-stage]")?.dataset.stage,
        };
    }

    function pinchOf() {
      const [a, b] = [...pointers.values()];
      return { span: Math.hypot(a.x - b.x, a.y - b.y) || 1, at: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
    }

    function move(event) {
      if (!pointers.has(event.pointerId)) return;
      if (event.pointerType === "mouse" && !event.buttons) {
        // let go where nobody saw it
        pointers.delete(event.pointerId);
        cancel();
        return;
      }
      pointers.set(event.pointerId, local(event));
      if (pinch && pointers.size >= 2) {
        const next = pinchOf();
        zoom(next.span / pinch.span, next.at);
        view.x += next.at.x - pinch.at.x;
        view.y += next.at.y - pinch.at.y;
        pinch = next;
        apply();
        return;
      }
      if (!act) return;
      act.last = local(event);
      const dx = act.last.x - act.from.x,
        dy = act.last.y - act.from.y;
      if (Math.hypot(dx, dy) > SLACK) begin(dx, dy);
      if (["bits", "box", "pan"].includes(act.kind) && !root.hasPointerCapture(event.pointerId))
        root.setPointerCapture(event.pointerId); // late: earlier it would swallow clicks
      if (act.kind === "bits") dragTo();
      else if (act.kind === "box") box();
      else if (act.kind === "pan") {
        view.x = act.start.x + dx;
        view.y = act.start.y + dy;
        view.moved = true;
        apply();
      }
    }

    function begin(dx, dy) {
      if (act.kind === "press") {
        if (Math.abs(dx) > 1.6 * Math.abs(dy)) {
          act.kind = "pan";
          act.start = { ...view };
          return;
        }
        act.choices = store.editable(store.meant(act.id));
        act.kind = "bits";
        act.steps = 0;
        root.classList.add("dragging");
        ui.tip(null);
        if (!act.choices.length) ui.notice(act.id, "Protected: press p to unlock");
      } else if (act.kind === "maybe-box") {
        act.kind = "box";
        ui.tip(null);
      } else if (act.kind === "maybe-pan" || act.kind === "toggle") {
        act.kind = "pan";
        root.classList.add("panning");
      }
    }

    function box() {
      const x = Math.min(act.from.x, act.last.x),
        y = Math.min(act.from.y, act.last.y);
      const w = Math.abs(act.from.x - act.last.x),
        h = Math.abs(act.from.y - act.last.y);
      for (const [name, value] of Object.entries({ x, y, width: w, height: h, visibility: "visible" }))
        rubber.setAttribute(name, value);
      const a = toWorld({ x, y }),
        b = toWorld({ x: x + w, y: y + h });
      act.hits = [...painter.nodes.values()].filter(
        ({ item }) => item.x < b.x && item.x + item.w > a.x && item.y < b.y && item.y + item.h > a.y,
      );
      for (const node of painter.nodes.values()) node.g.classList.toggle("in-box", act.hits.includes(node));
    }

    function up(event) {
      pointers.delete(event.pointerId);
      if (pinch) {
        if (!pointers.size) pinch = null;
        act = null;
        return;
      }
      const done = act;
      act = null;
      root.classList.remove("dragging", "panning");
      rubber.setAttribute("visibility", "hidden");
      ui.ladder(null);
      if (!done) return;
      if (done.kind === "bits") {
        act = done;
        dragTo.now();
        act = null;
        ui.ladder(null);
        store.commit();
      } else if (done.kind === "box") {
        for (const node of painter.nodes.values()) node.g.classList.remove("in-box");
        const cards = (done.hits || []).filter((node) => node.kind === "card");
        store.select(
          (cards.length ? cards : done.hits || []).map((node) => node.item.id),
          "add",
        );
      } else if (done.kind === "press") store.select([done.id]);
      else if (done.kind === "toggle" || (done.kind === "maybe-box" && done.id)) store.select([done.id], "toggle");
      else if (done.kind === "maybe-pan") store.select(done.stage ? [done.stage] : []);
    }

    function cancel() {
      if (!act) return false;
      if (act.kind === "bits") store.abandon();
      for (const node of painter.nodes.values()) node.g.classList.remove("in-box");
      act = null;
      rubber.setAttribute("visibility", "hidden");
      root.classList.remove("dragging", "panning");
      ui.ladder(null);
      return true;
    }

    root.addEventListener("pointerdown", down);
    root.addEventListener("pointermove", move);
    root.addEventListener("pointerup", up);
    root.addEventListener("pointercancel", (event) => {
      pointers.delete(event.pointerId);
      pinch = null;
      cancel();
    });
    root.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        if (event.shiftKey) {
          view.x -= event.deltaX || event.deltaY;
          view.moved = true;
          apply();
          return;
        }
        const lines = event.deltaMode === 1 ? 16 : 1;
        zoom(Math.exp(-QS.clamp(event.deltaY * lines, -120, 120) * (event.ctrlKey ? 0.006 : 0.0016)), local(event));
      },
      { passive: false },
    );
    root.addEventListener("dblclick", (event) => {
      const node = nodeAt(event),
        stage = event.target.closest("[data-stage]");
      if (node) ui.toggle(node.dataset.id);
      else if (stage) store.fold(stage.dataset.stage);
      else fit();
    });
    root.addEventListener("pointerover", (event) => {
      if (act && act.kind !== "press") return;
      const node = nodeAt(event);
      store.setHover(node ? node.dataset.id : "");
      ui.tip(node, local(event));
    });
    root.addEventListener("pointerleave", () => {
      store.setHover("");
      ui.tip(null);
    });
    return {
      fit,
      reveal,
      cancel,
      view,
      apply,
      zoomBy: (factor) => zoom(factor, center()),
      busy: () => Boolean(act && act.kind !== "press"),
    };
  };
})();
