-- The address of a server and what is known about it; without a word against it, it is as it should be.
local status = obj.status or {}
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration < obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen the last change yet" }
end
local health = { status = "Healthy" }
for _, condition in ipairs(status.conditions or {}) do
  local message = condition.message or condition.reason or ""
  if condition.type == "Stalled" and condition.status == "True" then
    return { status = "Degraded", message = message }
  end
  if condition.type == "NotSupportedYet" and condition.status == "True" then
    health.message = message
  end
  if condition.type == "Ready" or condition.type == "Validated" then
    if condition.status == "False" then
      return { status = "Degraded", message = message }
    end
    health.message = message
  end
end
return health
