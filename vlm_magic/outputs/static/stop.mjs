// A Stop button above work that fills a cell's output by itself.
import { button, el } from "./parts.mjs";

const HEARD_MS = 700; // the kernel says at once that it heard a Stop; after this its cell is interrupted

function render({ model, el: host }) {
  const isMessage = model.get("stop_by") === "message";
  let isHeard = false;
  const interrupt = () => isHeard || model.get("is_over") || model.widget_manager?.kernel?.interrupt?.();
  const title = isMessage ? "Stop: what is done so far is kept" : "Stop by interrupting the kernel; this also ends a Run All";
  const stop = button("stop", "Stop", () => {
    stop.disabled = true;
    stop.querySelector("span").textContent = "Stopping";
    model.send({ type: "stop" });
    if (isMessage) setTimeout(interrupt, HEARD_MS);
    else interrupt();
  }, { title });
  const bar = el("section", { class: "vlm vlm-chat vlm-stopbar", "aria-label": model.get("words") }, el("p", { class: "vlm-status vlm-waiting", role: "status" }, model.get("words")), stop);
  const show = () => bar.classList.toggle("vlm-over", model.get("is_over"));
  const hear = (message) => (isHeard ||= message.type === "ack");
  model.on("change:is_over", show);
  model.on("msg:custom", hear);
  show();
  host.append(bar);
  return () => {
    model.off("change:is_over", show);
    model.off("msg:custom", hear);
  };
}

export default { render };
