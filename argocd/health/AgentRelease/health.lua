-- Only what was begun and could not be done degrades an application.
local status = obj.status or {}
local phase = status.phase
if phase == nil then
  return { status = "Suspended", message = "waits for somebody who rolls releases out" }
end
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration < obj.metadata.generation then
  return { status = "Progressing", message = "the last change has not been seen yet" }
end
local message = phase
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" and condition.message ~= nil then
    message = phase .. ": " .. condition.message
  end
end
if phase == "Succeeded" then
  return { status = "Healthy", message = message }
end
if phase == "Pending" or phase == "InProgress" then
  return { status = "Progressing", message = message }
end
if phase == "AwaitingApproval" or phase == "Paused" then
  return { status = "Suspended", message = message }
end
if phase == "Failed" then
  return { status = "Degraded", message = message }
end
return { status = "Unknown", message = "this check does not know the phase " .. phase }
