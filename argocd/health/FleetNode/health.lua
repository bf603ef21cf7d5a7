-- A machine that went home does not degrade an application: others take its tasks, and it comes back by itself.
local status = obj.status or {}
local phase = status.phase
if phase == nil or phase == "Unknown" then
  return { status = "Progressing", message = "its agent has not been heard of yet" }
end
if phase == "Ready" then
  return { status = "Healthy", message = "takes tasks" }
end
if phase == "Draining" then
  return { status = "Suspended", message = "ends what it has and takes nothing new" }
end
if phase == "NotReady" then
  return { status = "Suspended", message = "not heard of since " .. (status.lastHeartbeatTime or "an unknown time") }
end
return { status = "Unknown", message = "this check does not know the phase " .. phase }
